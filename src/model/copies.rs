//! Who else hears of a request: mirrors, the access log.

/// Who else hears of a request: mirrors, the access log. As the annotations of an Ingress have it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Copies {}
