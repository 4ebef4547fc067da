//! What is wrong with somebody's object, and what happens instead.

use std::fmt;

use super::name::{Kind, ObjectName};

/// A sentence for the owner of an object.
///
/// A problem never stops anything else: it is told as an Event on the object, as a metric and on the
/// status page, and the rest of the cluster is served.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Problem {
    /// Kind of the object it is about.
    pub kind: Kind,
    /// Name of the object it is about.
    pub object: ObjectName,
    /// One CamelCase word: the reason of the Event and the label of the metric.
    pub reason: &'static str,
    /// What is wrong and what happens instead.
    pub text: String,
}

impl Problem {
    /// A problem of an Ingress.
    pub fn ingress(object: &ObjectName, reason: &'static str, text: impl Into<String>) -> Self {
        Self { kind: Kind::Ingress, object: object.clone(), reason, text: text.into() }
    }
}

/// Reasons of problems because of which something that was asked for is not served at all.
const REFUSING: &[&str] = &[
    "BadFile",
    "BadObject",
    "BadRule",
    "BadStream",
    "CatchAll",
    "ForbiddenAddress",
    "HostTaken",
    "NoNamespace",
    "PathTaken",
    "PortTaken",
    "Unreadable",
    "UpstreamTls",
];

impl Problem {
    /// Whether something is not served because of it; otherwise it is served otherwise than was asked for.
    pub fn refuses(&self) -> bool {
        REFUSING.contains(&self.reason)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.kind, self.object, self.text)
    }
}
