//! Names of Kubernetes objects.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// `namespace/name`, the way `kubectl` and ingress-nginx's flags write it.
///
/// Snapshots and plans hold each name many times over, so copies share the text.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ObjectName {
    /// The namespace; empty for objects of the whole cluster.
    pub namespace: Arc<str>,
    /// The name inside the namespace.
    pub name: Arc<str>,
}

impl ObjectName {
    /// Puts the two halves together.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl ObjectName {
    /// Whether both halves are names an API server would take (RFC 1123 subdomains). Objects from files
    /// have not been asked.
    pub fn is_valid(&self) -> bool {
        let valid = |it: &str| {
            let plain = |it: u8| matches!(it, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
            let edge = |it: Option<&u8>| it.is_some_and(u8::is_ascii_alphanumeric);
            let bytes = it.as_bytes();
            bytes.len() <= 253
                && bytes.iter().all(|it| plain(*it))
                && edge(bytes.first())
                && edge(bytes.last())
        };
        valid(&self.namespace) && valid(&self.name)
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Why a text is not an object's name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is not of the form namespace/name")]
pub struct NameError(String);

impl FromStr for ObjectName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(Self::new(namespace, name))
            }
            _ => Err(NameError(text.to_owned())),
        }
    }
}

/// The kinds of object that are read.
#[expect(missing_docs, reason = "the names are the API's own")]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    Ingress,
    IngressClass,
    Service,
    EndpointSlice,
    Secret,
    ConfigMap,
    Namespace,
    /// A manifest that could not be read, in directory mode.
    File,
}

impl Kind {
    /// Every kind a complete snapshot holds, in the order in which they are listed.
    pub const WATCHED: [Self; 7] = [
        Self::Ingress,
        Self::IngressClass,
        Self::Service,
        Self::EndpointSlice,
        Self::Secret,
        Self::ConfigMap,
        Self::Namespace,
    ];

    /// The name in manifests, as `kind:`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "Ingress",
            Self::IngressClass => "IngressClass",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
            Self::Namespace => "Namespace",
            Self::File => "File",
        }
    }

    /// The group and version of the API it is read from, as `apiVersion:`.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Ingress | Self::IngressClass => "networking.k8s.io/v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::Service | Self::Secret | Self::ConfigMap | Self::Namespace | Self::File => "v1",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
