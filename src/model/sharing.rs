//! Canaries and affinity: who of several gets a request.

/// Canaries and affinity: who of several gets a request. As the annotations of an Ingress have it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Sharing {}
