//! Keys about traces: where spans go, and which.

use std::time::Duration;

use super::{Key, default_of, key, truth};
use crate::model::host::Authority;
use crate::model::settings::Settings;
use crate::model::trace::{Ratio, Sampler};

pub(super) const KEYS: &[Key] = &[
    default_of("enable-opentelemetry"),
    default_of("opentelemetry-operation-name"),
    default_of("opentelemetry-trust-incoming-span"),
    key(
        "otlp-collector-host",
        "Name or address of the collector that spans go to, by OTLP over gRPC without TLS.",
        |value, it| {
            it.tracing.collector = match value {
                "" => None,
                host => Some(collector(host).ok_or("a name or an address, without a port")?),
            };
            Ok(())
        },
    ),
    key("otlp-collector-port", "Its port; 4317 where it is not given.", |value, it| {
        it.tracing.port = number(value, u16::MAX).ok_or("a port, from 1 to 65535")?;
        Ok(())
    }),
    key(
        "otel-service-name",
        "`service.name` of the spans; `nginx` where it is not given.",
        |value, it| {
            it.tracing.service = Some(value).filter(|it| !it.is_empty()).ok_or("a name")?.into();
            Ok(())
        },
    ),
    key(
        "otel-sampler",
        "Which traces that begin here are told: `AlwaysOn`, `AlwaysOff` or `TraceIdRatioBased`.",
        |value, it| {
            let sampler = Sampler::parse(value);
            it.tracing.sampler = sampler.ok_or("AlwaysOn, AlwaysOff or TraceIdRatioBased")?;
            Ok(())
        },
    ),
    key(
        "otel-sampler-ratio",
        "The part of them that `TraceIdRatioBased` takes; 0.01 where it is not given.",
        |value, it| {
            it.tracing.ratio = Ratio::parse(value).ok_or("a number from 0 to 1")?;
            Ok(())
        },
    ),
    key(
        "otel-sampler-parent-based",
        "`false`: the sampler decides on traces that began elsewhere, too.",
        |value, it| {
            it.tracing.parent_based = truth(value)?;
            Ok(())
        },
    ),
    key(
        "otel-max-queuesize",
        "Most spans that wait for the collector, 2048 where it is not given; more are dropped and counted.",
        |value, it| {
            it.tracing.queue = many(value)?;
            Ok(())
        },
    ),
    key(
        "otel-schedule-delay-millis",
        "How long spans wait for others before they are sent, in milliseconds; 5000 where it is not given.",
        |value, it| {
            let millis = number(value, 3_600_000_u32).ok_or("a number from 1 to 3600000")?;
            it.tracing.delay = Duration::from_millis(millis.into());
            Ok(())
        },
    ),
    key(
        "otel-max-export-batch-size",
        "Most spans of one message; 512 where it is not given.",
        |value, it| {
            it.tracing.batch = many(value)?;
            Ok(())
        },
    ),
];

/// What is told when spans are asked for and no collector.
pub(super) fn without_collector(settings: &Settings) -> Option<String> {
    let wanted = settings.options.spans.as_ref().is_some_and(|it| it.on);
    (wanted && settings.tracing.collector.is_none()).then(|| {
        "enable-opentelemetry without otlp-collector-host: traceparent is sent to endpoints, and no \
         spans are sent"
            .to_owned()
    })
}

/// A host as a URL has it.
fn collector(text: &str) -> Option<Box<str>> {
    let bare = text.trim_matches(['[', ']']);
    if bare.contains(':') {
        let address: std::net::Ipv6Addr = bare.parse().ok()?;
        return Some(format!("[{address}]").into());
    }
    let authority: Authority = text.parse().ok()?;
    Some(authority.host).filter(|_| authority.port.is_none())
}

/// How many spans: each may take some kilobytes.
fn many(value: &str) -> Result<usize, &'static str> {
    let many: u32 = number(value, 65_536).ok_or("a number from 1 to 65536")?;
    usize::try_from(many).map_err(|_| "a number from 1 to 65536")
}

fn number<N: std::str::FromStr + PartialOrd + From<u8>>(text: &str, most: N) -> Option<N> {
    text.parse().ok().filter(|it| (N::from(1)..=most).contains(it))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::trace::Tracing;

    #[test]
    fn keys_are_read_or_refused() {
        let usual = Tracing::default;
        for (name, value, expected) in [
            (
                "otlp-collector-host",
                "otel.observe.svc",
                Some(Tracing { collector: Some("otel.observe.svc".into()), ..usual() }),
            ),
            (
                "otlp-collector-host",
                "::1",
                Some(Tracing { collector: Some("[::1]".into()), ..usual() }),
            ),
            ("otlp-collector-host", "", Some(usual())),
            ("otlp-collector-host", "otel:4317", None),
            ("otlp-collector-host", "http://otel", None),
            ("otlp-collector-port", "4318", Some(Tracing { port: 4318, ..usual() })),
            ("otlp-collector-port", "0", None),
            ("otlp-collector-port", "65536", None),
            ("otel-service-name", "edge", Some(Tracing { service: "edge".into(), ..usual() })),
            ("otel-service-name", "", None),
            ("otel-sampler", "AlwaysOff", Some(Tracing { sampler: Sampler::AlwaysOff, ..usual() })),
            ("otel-sampler", "always_on", None),
            ("otel-sampler-ratio", "0.01", Some(usual())),
            ("otel-sampler-ratio", "2", None),
            (
                "otel-sampler-parent-based",
                "false",
                Some(Tracing { parent_based: false, ..usual() }),
            ),
            ("otel-sampler-parent-based", "no", None),
            ("otel-max-queuesize", "10", Some(Tracing { queue: 10, ..usual() })),
            ("otel-max-queuesize", "-1", None),
            ("otel-max-queuesize", "65537", None),
            (
                "otel-schedule-delay-millis",
                "100",
                Some(Tracing { delay: Duration::from_millis(100), ..usual() }),
            ),
            ("otel-schedule-delay-millis", "5s", None),
            ("otel-max-export-batch-size", "1", Some(Tracing { batch: 1, ..usual() })),
            ("otel-max-export-batch-size", "0", None),
        ] {
            let mut settings = Settings::default();
            let key = KEYS.iter().find(|it| it.name == name).expect(name);
            let read = key.read(value, &mut settings);
            assert_eq!(read.is_ok(), expected.is_some(), "{name}: {value}");
            assert_eq!(settings.tracing, expected.unwrap_or_default(), "{name}: {value}");
        }
    }

    #[test]
    fn who_wants_spans_names_a_collector() {
        for (on, host, told) in [("true", "", true), ("true", "otel", false), ("false", "", false)]
        {
            let mut settings = Settings::default();
            for (name, value) in [("enable-opentelemetry", on), ("otlp-collector-host", host)] {
                let key = KEYS.iter().find(|it| it.name == name).expect(name);
                assert_eq!(key.read(value, &mut settings), Ok(()), "{name}: {value}");
            }
            assert_eq!(without_collector(&settings).is_some(), told, "{on} {host}");
        }
    }
}
