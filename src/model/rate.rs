//! How much one client may ask for.

/// How much one client may ask for. As the annotations of an Ingress have it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rates {}
