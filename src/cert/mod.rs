//! Certificates from the command line: `lockgate cert …`.
//!
//! What is told comes from a running replica, by its port for health and metrics, so that it is what is
//! really served. What is changed goes through annotations on the Secret, whose right to write them the
//! caller must have; the leader acts on them and takes them away again.

mod change;
mod check;
mod text;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::app;
use crate::args::{Ask, Cert, CertCommand, Output};

/// Longest wait for a replica, and for a host's CAA records.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest answer that is read, in bytes: a hundred thousand certificates fit.
const LARGEST: usize = 256 << 20;

/// Does what the arguments say; the exit code says whether all is well.
pub async fn run(cert: &Cert) -> anyhow::Result<ExitCode> {
    let well = match &cert.command {
        CertCommand::List { ask } => list(ask).await?,
        CertCommand::Describe { of, ask } => describe(of, ask).await?,
        CertCommand::Check(flags) => check::check(flags).await?,
        CertCommand::Renew { secret, force, place } => {
            change::renew(place, secret, *force).await?;
            true
        }
        CertCommand::Adopt { secret, place } => {
            change::adopt(place, secret).await?;
            true
        }
        CertCommand::Revoke { secret, reason, place } => {
            change::revoke(place, secret, *reason).await?;
            true
        }
    };
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn list(ask: &Ask) -> anyhow::Result<bool> {
    let all = certificates(ask).await?;
    match ask.output {
        Output::Json => app::say(&format!("{:#}\n", all["managed"])),
        Output::Text => app::say(&text::table(&all, now())),
    }
    Ok(true)
}

/// Shows one certificate; says whether all is well with it.
async fn describe(of: &str, ask: &Ask) -> anyhow::Result<bool> {
    let all = certificates(ask).await?;
    let found = text::find(&all, of);
    if found.is_empty() {
        let served = all["served"].as_array().into_iter().flatten();
        let mut foreign = served.filter(|it| it["host"] == of || it["secret"] == of);
        match foreign.next() {
            Some(it) => bail!(
                "{of} is served from Secret {}, which is not managed: it is yours to renew, or to hand over \
                 with `lockgate cert adopt {}`",
                text::word(&it["secret"]),
                text::word(&it["secret"]),
            ),
            None => bail!("no managed certificate is in a Secret {of} or for a host {of}"),
        }
    }
    match ask.output {
        Output::Json => {
            let found: Value = found.iter().copied().cloned().collect();
            app::say(&format!("{found:#}\n"));
        }
        Output::Text => {
            let texts: Vec<String> =
                found.iter().map(|it| text::description(it, &all["ca"], now())).collect();
            app::say(&texts.join("\n"));
        }
    }
    Ok(found.iter().all(|it| text::is_well(it, now())))
}

/// What the replica says at `/api/certificates`.
async fn certificates(ask: &Ask) -> anyhow::Result<Value> {
    let url = format!("{}/api/certificates", ask.admin.trim_end_matches('/'));
    let asked = tokio::time::timeout(PATIENCE, get(&url)).await;
    let how = || {
        format!(
            "no replica answers at {url}; --admin says where one is, and \
             `kubectl exec deploy/lockgate -- lockgate cert …` asks from inside"
        )
    };
    let body = asked.context("no answer in time").and_then(|it| it).with_context(how)?;
    serde_json::from_slice(&body).with_context(|| format!("{url} is not a replica of Lockgate"))
}

async fn get(url: &str) -> anyhow::Result<Bytes> {
    let uri: http::Uri = url.parse()?;
    ensure!(uri.scheme_str() == Some("http"), "--admin is no URL that begins with http://");
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let answer = client.get(uri).await?;
    ensure!(answer.status().is_success(), "it answers with status {}", answer.status().as_u16());
    let body = Limited::new(answer.into_body(), LARGEST).collect().await;
    Ok(body.map_err(anyhow::Error::from_boxed)?.to_bytes())
}

#[expect(clippy::disallowed_methods, reason = "only people read how long it is until something")]
fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
