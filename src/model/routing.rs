//! Redirects other than to HTTPS, regular expressions and rewrites.

/// Redirects other than to HTTPS, regular expressions and rewrites. As the annotations of an Ingress have it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Routing {}
