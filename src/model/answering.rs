//! What is done to answers on their way to clients.

/// What is done to answers on their way to clients. As the annotations of an Ingress have it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Answering {}
