//! Traces: how a request says which one it belongs to (W3C Trace Context), and what is told of it.

use std::time::Duration;

use super::phrase::Phrase;

/// A place in a trace: `traceparent` (W3C Trace Context section 3.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Context {
    /// What all spans of one trace share.
    pub trace: [u8; 16],
    /// The span.
    pub span: [u8; 8],
    /// Whether it is told to a collector.
    pub sampled: bool,
}

impl Context {
    /// How long `traceparent` is, in the version we write.
    const LENGTH: usize = 55;
    const SAMPLED: u8 = 1;

    /// Reads `traceparent`. Of a version to come what is known of it is read (section 4.3).
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (known, rest) = text.split_at_checked(Self::LENGTH)?;
        let mut parts = known.split(|it| *it == b'-');
        let [version] = hexadecimal(parts.next()?)?;
        let trace = hexadecimal(parts.next()?)?;
        let span = hexadecimal(parts.next()?)?;
        let [flags] = hexadecimal(parts.next()?)?;
        let fits = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.first().is_none_or(|it| *it == b'-'),
        };
        let named = trace != [0; 16] && span != [0; 8] && parts.next().is_none();
        let sampled = flags & Self::SAMPLED != 0;
        (fits && named).then_some(Self { trace, span, sampled })
    }

    /// Writes it.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(Self::LENGTH);
        text.push_str("00-");
        put(&mut text, &self.trace);
        text.push('-');
        put(&mut text, &self.span);
        text.push_str(if self.sampled { "-01" } else { "-00" });
        text
    }
}

/// Lower-case digits, as section 3.2.2 wants them.
fn hexadecimal<const LENGTH: usize>(text: &[u8]) -> Option<[u8; LENGTH]> {
    let digit = |it: u8| match it {
        b'0'..=b'9' => Some(it - b'0'),
        b'a'..=b'f' => Some(it - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * LENGTH {
        return None;
    }
    let mut bytes = [0; LENGTH];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn put(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)].into());
        text.push(DIGITS[usize::from(byte & 15)].into());
    }
}

/// What the annotations of an Ingress say of the spans of its requests.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Spans {
    /// `enable-opentelemetry`
    pub on: bool,
    /// `opentelemetry-trust-incoming-span: false`: each request begins a trace.
    pub distrust: bool,
    /// `opentelemetry-operation-name`: their name; `None` for the path of the rule.
    pub name: Option<Box<Phrase>>,
}

/// What the ConfigMap says of spans; defaults are ingress-nginx's.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracing {
    /// `otlp-collector-host`: a name or an address; `None` where spans go nowhere.
    pub collector: Option<Box<str>>,
    /// `otlp-collector-port`
    pub port: u16,
    /// `otel-service-name`
    pub service: Box<str>,
    /// `otel-sampler`
    pub sampler: Sampler,
    /// `otel-sampler-ratio`, for the sampler that has one.
    pub ratio: Ratio,
    /// `otel-sampler-parent-based`: who began the trace decides.
    pub parent_based: bool,
    /// `otel-max-queuesize`: most spans that wait.
    pub queue: usize,
    /// `otel-schedule-delay-millis`: how long a span waits for others.
    pub delay: Duration,
    /// `otel-max-export-batch-size`: most spans of one message.
    pub batch: usize,
}

impl Default for Tracing {
    fn default() -> Self {
        Self {
            collector: None,
            port: 4317,
            service: "nginx".into(),
            sampler: Sampler::AlwaysOn,
            ratio: Ratio(0.01),
            parent_based: true,
            queue: 2048,
            delay: Duration::from_secs(5),
            batch: 512,
        }
    }
}

impl Tracing {
    /// Whether a span of a trace is told.
    pub fn samples(&self, trace: [u8; 16], parent: Option<&Context>) -> bool {
        if let Some(parent) = parent.filter(|_| self.parent_based) {
            return parent.sampled;
        }
        match self.sampler {
            Sampler::AlwaysOn => true,
            Sampler::AlwaysOff => false,
            Sampler::TraceIdRatioBased => self.ratio.takes(trace),
        }
    }
}

/// Which traces are told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "the names are OpenTelemetry's")]
pub enum Sampler {
    AlwaysOn,
    AlwaysOff,
    TraceIdRatioBased,
}

impl Sampler {
    /// Reads its name.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "AlwaysOn" => Self::AlwaysOn,
            "AlwaysOff" => Self::AlwaysOff,
            "TraceIdRatioBased" => Self::TraceIdRatioBased,
            _ => return None,
        })
    }
}

/// A part of all traces, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio(f64);

impl Ratio {
    /// Reads a number.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().ok().filter(|it| (0.0..=1.0).contains(it)).map(Self)
    }

    /// Whether a trace is in it: decided by the last 63 bits of its id, which are random, so that all who
    /// decide in this way, as OpenTelemetry's libraries for Go and Java do, agree.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a power of two, a part of it, and the last bits"
    )]
    fn takes(self, trace: [u8; 16]) -> bool {
        const ALL: u64 = 1 << 63;
        let random = u128::from_be_bytes(trace) as u64 >> 1;
        random < (self.0 * ALL as f64) as u64
    }
}

/// One request as a collector is told of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Its place in its trace.
    pub context: Context,
    /// The span that caused it.
    pub parent: Option<[u8; 8]>,
    /// `tracestate` as it came.
    pub state: Box<str>,
    /// What was done.
    pub name: Box<str>,
    /// When it began, in nanoseconds since 1970.
    pub began: u64,
    /// When it ended.
    pub ended: u64,
    /// What else is known.
    pub attributes: Vec<(&'static str, Value)>,
    /// Whether it failed, by our fault or the endpoint's.
    pub failed: bool,
}

/// Of an attribute.
#[expect(missing_docs, reason = "the names say it")]
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Value {
    Text(Box<str>),
    Number(i64),
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn traceparent_is_read_by_the_rules_of_w3c() {
        for (text, expected) in [
            (format!("00-{TRACE}-00f067aa0ba902b7-01"), Some(true)),
            (format!("00-{TRACE}-00f067aa0ba902b7-00"), Some(false)),
            // Flags that are not known say nothing.
            (format!("00-{TRACE}-00f067aa0ba902b7-ff"), Some(true)),
            (format!("00-{TRACE}-00f067aa0ba902b7-fe"), Some(false)),
            (format!("00-{TRACE}-00f067aa0ba902b7-01-"), None),
            (format!("00-{TRACE}-00f067aa0ba902b7-01-more"), None),
            (format!("00-{TRACE}-00f067aa0ba902b7-1"), None),
            (format!("00-{TRACE}-00f067aa0ba902b7"), None),
            (format!("00-{TRACE}-00F067AA0BA902B7-01"), None),
            (format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()), None),
            (format!("00-{TRACE}-0000000000000000-01"), None),
            (format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)), None),
            (format!("00-{TRACE}-00f067aa0ba902bg-01"), None),
            (format!("00-{TRACE}-00f067aa0ba902b7-0x"), None),
            (format!("00_{TRACE}-00f067aa0ba902b7-01"), None),
            (format!("0-{TRACE}0-00f067aa0ba902b7-01"), None),
            (format!(" 00-{TRACE}-00f067aa0ba902b7-01"), None),
            // Versions to come are read as far as they are known; ff is none.
            (format!("01-{TRACE}-00f067aa0ba902b7-01"), Some(true)),
            (format!("cc-{TRACE}-00f067aa0ba902b7-01-what-comes"), Some(true)),
            (format!("cc-{TRACE}-00f067aa0ba902b7-01."), None),
            (format!("cc-{TRACE}-00f067aa0ba902b7-01x"), None),
            (format!("ff-{TRACE}-00f067aa0ba902b7-01"), None),
            (format!("ff-{TRACE}-00f067aa0ba902b7-01-more"), None),
            (String::new(), None),
            ("-".repeat(55), None),
        ] {
            let found = Context::parse(text.as_bytes());
            assert_eq!(found.map(|it| it.sampled), expected, "{text}");
            let Some(found) = found else { continue };
            assert_eq!((found.trace[0], found.span[7]), (0x4b, 0xb7), "{text}");
            let flags = if found.sampled { "01" } else { "00" };
            assert_eq!(found.text(), format!("00-{TRACE}-00f067aa0ba902b7-{flags}"), "{text}");
        }
    }

    #[test]
    fn samplers_decide_by_parent_or_by_themselves() {
        let ratio = |it: &str| Ratio::parse(it).expect("a ratio");
        let (low, high) = ([0; 16], [0xff; 16]);
        for (sampler, part, parent_based, parent, trace, expected) in [
            (Sampler::AlwaysOn, "0", true, None, high, true),
            (Sampler::AlwaysOff, "1", true, None, low, false),
            (Sampler::TraceIdRatioBased, "0", true, None, low, false),
            (Sampler::TraceIdRatioBased, "1", true, None, high, true),
            (Sampler::TraceIdRatioBased, "0.5", true, None, low, true),
            (Sampler::TraceIdRatioBased, "0.5", true, None, high, false),
            (Sampler::AlwaysOn, "0", true, Some(false), high, false),
            (Sampler::AlwaysOff, "0", true, Some(true), high, true),
            (Sampler::TraceIdRatioBased, "0", true, Some(true), high, true),
            (Sampler::AlwaysOn, "0", false, Some(false), high, true),
            (Sampler::AlwaysOff, "0", false, Some(true), high, false),
            (Sampler::TraceIdRatioBased, "1", false, Some(false), high, true),
        ] {
            let tracing =
                Tracing { sampler, ratio: ratio(part), parent_based, ..Tracing::default() };
            let parent = parent.map(|sampled| Context { trace, span: [1; 8], sampled });
            let found = tracing.samples(trace, parent.as_ref());
            assert_eq!(found, expected, "{sampler:?} {part} {parent_based} {parent:?}");
        }
    }

    #[test]
    fn a_ratio_is_from_0_to_1() {
        for (text, expected) in [
            ("0", true),
            ("1", true),
            ("0.01", true),
            ("1e-3", true),
            ("1.01", false),
            ("-0.1", false),
            ("NaN", false),
            ("all", false),
            ("", false),
        ] {
            assert_eq!(Ratio::parse(text).is_some(), expected, "{text}");
        }
        assert_eq!(Ratio::parse("0.5"), Some(Ratio(0.5)));
    }
}
