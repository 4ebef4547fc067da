//! The messages of OTLP that are needed, in protobuf's encoding: written whole, and read in one field.
//!
//! Numbers of fields are those of `opentelemetry/proto/trace/v1/trace.proto` and its neighbours, version 1.

use crate::model::trace::{Span, Value};

/// `SPAN_KIND_SERVER`
const SERVER: u64 = 2;
/// `STATUS_CODE_ERROR`
const ERROR: u64 = 2;
/// Flags of a span beside those of W3C: whether its parent is known to be remote, and that it is.
const KNOWS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// Types on the wire.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED32: u64 = 5;

/// `ExportTraceServiceRequest`
pub(super) fn request(service: &str, spans: &[Span]) -> Vec<u8> {
    let mut all = Message::default();
    all.message(1, |resource_spans| {
        resource_spans.message(1, |resource| {
            let service = Value::Text(service.into());
            resource.message(1, |it| attribute(it, "service.name", &service));
        });
        resource_spans.message(2, |scope_spans| {
            scope_spans.message(1, |scope| {
                scope.bytes(1, b"lockgate");
                scope.bytes(2, env!("CARGO_PKG_VERSION").as_bytes());
            });
            for it in spans {
                scope_spans.message(2, |message| span(message, it));
            }
        });
    });
    all.0
}

fn span(to: &mut Message, span: &Span) {
    to.bytes(1, &span.context.trace);
    to.bytes(2, &span.context.span);
    to.bytes(3, span.state.as_bytes());
    to.bytes(4, span.parent.as_ref().map_or(&[], |it| it));
    to.bytes(5, span.name.as_bytes());
    to.number(6, SERVER);
    to.fixed64(7, span.began);
    to.fixed64(8, span.ended);
    for (name, value) in &span.attributes {
        to.message(9, |it| attribute(it, name, value));
    }
    if span.failed {
        to.message(15, |status| status.number(3, ERROR));
    }
    let remote = if span.parent.is_some() { IS_REMOTE } else { 0 };
    to.fixed32(16, u32::from(span.context.sampled) | KNOWS_REMOTE | remote);
}

/// `KeyValue`
fn attribute(to: &mut Message, name: &str, value: &Value) {
    to.bytes(1, name.as_bytes());
    to.message(2, |any| match value {
        Value::Text(text) => any.bytes_even_empty(1, text.as_bytes()),
        Value::Number(number) => {
            any.key(3, VARINT);
            any.varint(number.cast_unsigned());
        }
    });
}

/// How many spans an `ExportTraceServiceResponse` says were refused; what cannot be read says none.
pub(super) fn refused(message: &[u8]) -> u64 {
    let partial = fields(message).find_map(|it| match it {
        (1, Field::Bytes(partial)) => Some(partial),
        _ => None,
    });
    let refused = fields(partial.unwrap_or_default()).find_map(|it| match it {
        (1, Field::Number(refused)) => Some(refused),
        _ => None,
    });
    refused.unwrap_or_default()
}

/// A message that grows.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(u8::try_from(number & 0x7f).unwrap_or_default() | 0x80);
            number >>= 7;
        }
        self.0.push(u8::try_from(number).unwrap_or_default());
    }

    fn key(&mut self, field: u64, kind: u64) {
        self.varint(field << 3 | kind);
    }

    fn number(&mut self, field: u64, number: u64) {
        self.key(field, VARINT);
        self.varint(number);
    }

    fn fixed64(&mut self, field: u64, number: u64) {
        self.key(field, FIXED64);
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn fixed32(&mut self, field: u64, number: u32) {
        self.key(field, FIXED32);
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    /// Nothing where there are none: that is what is read, then.
    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.bytes_even_empty(field, bytes);
        }
    }

    fn bytes_even_empty(&mut self, field: u64, bytes: &[u8]) {
        self.key(field, LENGTH);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// A message within: its length is known once it is written.
    fn message(&mut self, field: u64, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.bytes_even_empty(field, &inner.0);
    }
}

/// A field as far as it matters.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

fn fields(mut rest: &[u8]) -> impl Iterator<Item = (u64, Field<'_>)> {
    std::iter::from_fn(move || {
        let key = varint(&mut rest)?;
        let mut take = |length: usize| {
            let (taken, left) = rest.split_at_checked(length)?;
            rest = left;
            Some(taken)
        };
        let field = match key & 7 {
            FIXED64 => take(8).map(|_| Field::Other)?,
            FIXED32 => take(4).map(|_| Field::Other)?,
            VARINT => Field::Number(varint(&mut rest)?),
            LENGTH => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                let (taken, left) = rest.split_at_checked(length)?;
                rest = left;
                Field::Bytes(taken)
            }
            _ => return None,
        };
        Some((key >> 3, field))
    })
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, left) = rest.split_first()?;
        *rest = left;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::trace::Context;

    fn bytes<'a>(message: &'a [u8], field: u64) -> Vec<&'a [u8]> {
        let bytes = |it: (u64, Field<'a>)| match it {
            (number, Field::Bytes(bytes)) if number == field => Some(bytes),
            _ => None,
        };
        fields(message).filter_map(bytes).collect()
    }

    #[test]
    fn a_request_holds_its_spans() {
        let context = Context { trace: [1; 16], span: [2; 8], sampled: true };
        let span = Span {
            context,
            parent: Some([3; 8]),
            state: "a=b".into(),
            name: "/shop".into(),
            began: 5,
            ended: 6,
            attributes: vec![
                ("http.method", Value::Text("GET".into())),
                ("http.status_code", Value::Number(502)),
            ],
            failed: true,
        };
        let message = request("edge", &[span.clone(), Span { failed: false, ..span }]);
        let [resource_spans] = bytes(&message, 1)[..] else { panic!("one resource") };
        let resource = bytes(resource_spans, 1)[0];
        assert!(resource.ends_with(b"service.name\x12\x06\x0a\x04edge"), "{resource:?}");
        let [first, second] = bytes(bytes(resource_spans, 2)[0], 2)[..] else { panic!("two") };
        for (field, expected) in
            [(1, &[1; 16][..]), (2, &[2; 8]), (3, b"a=b"), (4, &[3; 8]), (5, b"/shop")]
        {
            assert_eq!(bytes(first, field), [expected], "{field}");
        }
        assert_eq!(bytes(first, 9).len(), 2);
        assert_eq!(bytes(first, 9)[1], b"\x0a\x10http.status_code\x12\x03\x18\xf6\x03");
        assert_eq!(bytes(first, 15), [b"\x18\x02"]);
        assert!(bytes(second, 15).is_empty());
        assert!(first.ends_with(b"\x01\x03\0\0"), "{first:?}");
    }

    #[test]
    fn what_was_refused_is_read() {
        for (message, expected) in [
            (&b""[..], 0),
            (b"\x0a\x00", 0),
            (b"\x0a\x02\x08\x07", 7),
            (b"\x0a\x03\x08\xac\x02", 300),
            (b"\x0a\x06\x12\x02no\x08\x07", 7),
            (b"\x0a\x7f\x08", 0),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 0),
        ] {
            assert_eq!(refused(message), expected, "{message:?}");
        }
    }
}
