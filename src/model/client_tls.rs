//! Client certificates, and TLS that is handed on.

/// Client certificates, and TLS that is handed on. As the annotations of an Ingress have it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ClientTls {}
