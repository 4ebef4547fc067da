//! Who may ask.

/// Who may ask. As the annotations of an Ingress have it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Access {}
