//! Every flag: meaning, unit, default. The one module that knows `clap`.
//!
//! Flags that ingress-nginx has keep their names, meanings and Go's syntax (`--x`, `--x=false`, `-x`), so
//! that the `args` of an existing Deployment go on working. One that has no meaning here is accepted
//! and named in the log; one that nobody knows is an error.

mod cert;
mod explain;
mod lego;
mod nginx;
mod serve;
mod told;
mod values;

use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use cert::{Ask, Cert, CertCheck, CertCommand, Output, Place, Reason};
pub use explain::{Explain, Url};
pub use serve::Serve;
pub use told::Told;
pub use values::{HostOwnership, IssuerFlag, LETS_ENCRYPT, Rate};

/// An ingress proxy that keeps its own certificates.
#[derive(Debug, Parser)]
#[command(name = "lockgate", version, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the Ingresses of a cluster, or of a directory (the default).
    Serve(Box<Serve>),
    /// Say of each object what works, what differs from ingress-nginx, and what is refused.
    Check(Box<Check>),
    /// Say what becomes of one request, step by step, and why; the exit code is 1 where nobody serves it.
    Explain(Box<Explain>),
    /// Turn manifests of old clusters, kube-lego's too, into those of today.
    Convert(Convert),
    /// Show everything on this machine: sample objects, sample backends, local certificates.
    Demo(Demo),
    /// Certificates, as the running replica sees them.
    Cert(Cert),
}

/// Reads the arguments, the program's name first.
pub fn parse(argv: impl IntoIterator<Item = String>) -> Result<Cli, Told> {
    let (rest, without_effect) = nginx::understood(argv)?;
    let flags_only = rest.first().is_none_or(|it| it.starts_with('-'));
    let asks = rest.first().is_some_and(|it| matches!(it.as_str(), "--help" | "-h" | "--version"));
    let serve = (flags_only && !asks).then(|| "serve".to_owned());
    let all = ["lockgate".to_owned()].into_iter().chain(serve).chain(rest);
    let matches = Cli::command().try_get_matches_from(all).map_err(|it| Told::of(&it))?;
    let mut cli = Cli::from_arg_matches(&matches).map_err(|it| Told::of(&it))?;
    let serve = match &mut cli.command {
        Command::Serve(serve) => Some(&mut **serve),
        Command::Check(check) => Some(&mut check.serve),
        Command::Explain(explain) => Some(&mut explain.serve),
        Command::Cert(_) | Command::Convert(_) | Command::Demo(_) => None,
    };
    if let Some(serve) = serve {
        if let Some(told) = serve.contradiction() {
            return Err(told);
        }
        serve.without_effect = without_effect;
        lego::take_environment(serve);
    }
    Ok(cli)
}

/// Flags of `check`.
#[derive(Args, Clone, Debug)]
pub struct Check {
    /// Files or directories with objects, or - for standard input; the cluster when none is given.
    #[arg(short = 'f', long = "file", value_name = "FILE|DIR|-")]
    pub files: Vec<PathBuf>,
    /// How to say it.
    #[arg(short = 'o', long, value_enum, default_value = "text", value_name = "HOW")]
    pub output: Output,
    /// What `serve` is started with.
    #[command(flatten)]
    pub serve: Serve,
}

/// Flags of `convert`.
#[derive(Args, Clone, Debug)]
pub struct Convert {
    /// Files or directories with objects, or - for standard input.
    #[arg(short = 'f', long = "file", value_name = "FILE|DIR|-", required = true)]
    pub files: Vec<PathBuf>,
}

/// Flags of `demo`.
#[derive(Args, Clone, Debug)]
pub struct Demo {
    /// Port of plain HTTP on loopback.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub http_port: u16,
    /// Port of HTTPS on loopback.
    #[arg(long, value_name = "PORT", default_value_t = 8443)]
    pub https_port: u16,
    /// Port of health checks, metrics and the status page on loopback.
    #[arg(long, value_name = "PORT", default_value_t = 10254)]
    pub healthz_port: u16,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::ObjectName;

    fn serve(argv: &[&str]) -> Result<Box<Serve>, Told> {
        let argv = ["lockgate"].iter().chain(argv).map(|it| (*it).to_owned());
        match parse(argv)?.command {
            Command::Serve(serve) => Ok(serve),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_ingress_nginx_deployments_arguments_parse() {
        let serve = serve(&[
            "/nginx-ingress-controller",
            "--publish-service=ingress/controller",
            "--election-id=ingress-nginx-leader",
            "--controller-class=k8s.io/ingress-nginx",
            "-ingress-class=nginx",
            "--configmap=ingress/controller",
            "--validating-webhook=:8443",
            "--validating-webhook-certificate=/usr/local/certificates/cert",
            "--watch-ingress-without-class",
            "--update-status=false",
            "--v=2",
            "--tcp-services-configmap",
            "ingress/tcp",
        ])
        .expect("understood");
        assert_eq!(serve.configmap, Some(ObjectName::new("ingress", "controller")));
        assert_eq!(serve.tcp_services_configmap, Some(ObjectName::new("ingress", "tcp")));
        assert!(serve.watch_ingress_without_class);
        assert!(!serve.update_status);
        assert_eq!(serve.without_effect.len(), 3);
    }

    #[test]
    fn namespaces_are_one_some_or_all() {
        for (argv, expected) in [
            (&[][..], (None, None)),
            (&["--watch-namespace=", "--watch-namespace-selector="], (None, None)),
            (&["--watch-namespace=a", "--watch-namespace-selector="], (Some("a"), None)),
            (&["--watch-namespace=", "-watch-namespace-selector", "!a"], (None, Some("!a"))),
        ] {
            let serve = serve(argv).expect("understood");
            let selector = serve.selector().map(ToString::to_string);
            assert_eq!((serve.namespace(), selector.as_deref()), expected, "{argv:?}");
        }
    }

    #[test]
    fn a_mistake_is_one_line_that_names_the_flag() {
        for (argv, part) in [
            (&["--htp-port=80"][..], "--http-port"),
            (&["--http-port=eighty"], "--http-port"),
            (&["serf"], "serf"),
            (&["--configmap=nonamespace"], "--configmap"),
            (&["--watch-namespace-selector=a in (b"], "--watch-namespace-selector"),
            (
                &["--watch-namespace=a", "--watch-namespace-selector=a=b"],
                "--watch-namespace and --watch-namespace-selector",
            ),
        ] {
            let told = serve(argv).expect_err("a mistake");
            assert_eq!(told.code, 2, "{argv:?}");
            assert!(told.text.contains(part), "{argv:?}: {}", told.text);
            assert_eq!(told.text.lines().count(), 1, "{}", told.text);
        }
    }
}
