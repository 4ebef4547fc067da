//! Flags of `cert`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::model::name::ObjectName;

/// Flags of `cert`.
#[derive(Args, Clone, Debug)]
pub struct Cert {
    /// What to do.
    #[command(subcommand)]
    pub command: CertCommand,
}

/// What to do with certificates.
#[derive(Clone, Debug, Subcommand)]
pub enum CertCommand {
    /// Every certificate: where it stands, until when it is good, when it is renewed.
    List {
        /// Whom to ask.
        #[command(flatten)]
        ask: Ask,
    },
    /// All there is to know of one certificate, and what to do. Exit code 1 when something is wrong.
    Describe {
        /// The Secret, as namespace/name, or a host it is for.
        #[arg(value_name = "SECRET|HOST")]
        of: String,
        /// Whom to ask.
        #[command(flatten)]
        ask: Ask,
    },
    /// Look at a host as a CA would, at every address it has. Exit code 1 when a CA would fail.
    Check(CertCheck),
    /// Have a certificate renewed now. The limit on certificates for the same names stays.
    Renew {
        /// The Secret, as namespace/name.
        #[arg(value_name = "NS/NAME")]
        secret: ObjectName,
        /// Use one certificate more than that limit allows.
        #[arg(long)]
        force: bool,
        /// Where it is.
        #[command(flatten)]
        place: Place,
    },
    /// Hand a Secret that somebody else made over to Lockgate: what it holds is kept and renewed in time.
    Adopt {
        /// The Secret, as namespace/name.
        #[arg(value_name = "NS/NAME")]
        secret: ObjectName,
        /// Where it is.
        #[command(flatten)]
        place: Place,
    },
    /// Have the CA revoke a certificate; another is ordered while an Ingress asks for one.
    Revoke {
        /// The Secret, as namespace/name.
        #[arg(value_name = "NS/NAME")]
        secret: ObjectName,
        /// Why.
        #[arg(long, value_enum, default_value = "unspecified")]
        reason: Reason,
        /// Where it is.
        #[command(flatten)]
        place: Place,
    },
}

/// Flags of `cert check`.
#[derive(Args, Clone, Debug)]
pub struct CertCheck {
    /// The host.
    pub host: String,
    /// Port that the CA asks at.
    #[arg(long, value_name = "PORT", default_value_t = 80)]
    pub port: u16,
    /// DNS server to ask instead of the system's resolver, such as one that sees what the world sees.
    #[arg(long, value_name = "IP:PORT")]
    pub dns_server: Option<SocketAddr>,
    /// Thumbprint of the ACME account's key; the running replica's when it is not given.
    #[arg(long, value_name = "TEXT")]
    pub thumbprint: Option<String>,
    /// Whom to ask.
    #[command(flatten)]
    pub ask: Ask,
}

/// A running replica, and how to tell what it says.
#[derive(Args, Clone, Debug)]
pub struct Ask {
    /// The running replica's port for health and metrics.
    #[arg(
        long,
        env = "LOCKGATE_ADMIN",
        value_name = "URL",
        default_value = "http://127.0.0.1:10254"
    )]
    pub admin: String,
    /// Text for people, or JSON for programs.
    #[arg(long, short, value_enum, default_value = "text")]
    pub output: Output,
}

/// Where Secrets are; the same as for `serve`.
#[derive(Args, Clone, Debug)]
pub struct Place {
    /// The directory given to `serve --manifests`.
    #[arg(long, env = "LOCKGATE_MANIFESTS", value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// Kubeconfig file. Without it the pod's own service account, or the user's own file, is used.
    #[arg(long, env = "LOCKGATE_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<String>,
    /// URL of the API server, for one that asks for no credentials.
    #[arg(long, env = "LOCKGATE_APISERVER_HOST", value_name = "URL")]
    pub apiserver_host: Option<String>,
}

/// `--output`
#[expect(missing_docs, reason = "the flag's help says it")]
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Output {
    Text,
    Json,
}

/// Why a certificate is revoked: RFC 5280 section 5.3.1, as far as CAs take it from subscribers.
#[expect(missing_docs, reason = "the names are the RFC's")]
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
#[value(rename_all = "camelCase")]
pub enum Reason {
    Unspecified,
    KeyCompromise,
    AffiliationChanged,
    Superseded,
    CessationOfOperation,
}

impl Reason {
    /// The RFC's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "keyCompromise",
            Self::AffiliationChanged => "affiliationChanged",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessationOfOperation",
        }
    }
}
