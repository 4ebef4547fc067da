//! A host as a CA would see it: DNS, CAA, and the answer at every address.

use std::net::IpAddr;

use anyhow::Context;
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{PATIENCE, certificates, text};
use crate::app;
use crate::args::{CertCheck, Output};
use crate::certs::dns::{Caa, Resolver, Unresolved};
use crate::certs::selfcheck::{Look, Seen, look_at, look_by};

/// Most addresses that are looked at.
const MOST: usize = 16;

/// CAs whose word in CAA records is known, by a part of their directory's URL.
const IDENTITIES: [(&str, &str); 5] = [
    (".letsencrypt.org/", "letsencrypt.org"),
    (".pki.goog/", "pki.goog"),
    (".zerossl.com/", "sectigo.com"),
    (".sectigo.com/", "sectigo.com"),
    (".ssl.com/", "ssl.com"),
];

/// Looks at a host and says what to fix; whether a CA would be content.
pub(super) async fn check(flags: &CertCheck) -> anyhow::Result<bool> {
    let host = flags.host.trim_end_matches('.').to_ascii_lowercase();
    let replica = certificates(&flags.ask).await;
    let (all, thumbprint) = match (&flags.thumbprint, replica) {
        (Some(given), replica) => (replica.unwrap_or_default(), given.clone()),
        (None, replica) => {
            let all = replica.context("--thumbprint does without a replica")?;
            let known = all["ca"]["thumbprint"].as_str().map(str::to_owned);
            let none = "that replica has no ACME account yet, so it answers no challenges";
            (all, known.context(none)?)
        }
    };
    let resolver = flags.dns_server.map_or(Resolver::System, Resolver::Server);
    let looks = everywhere(&resolver, &host, flags.port, &thumbprint).await;
    let records = tokio::time::timeout(PATIENCE, resolver.caa(&host)).await;
    let records =
        records.unwrap_or_else(|_| Err(Unresolved::Silent("no answer in time".to_owned())));
    let directory = text::word(&all["ca"]["directory"]);
    let account = text::word(&all["ca"]["account"]);
    let records = records.map_err(|it| it.to_string());
    let objection = match &records {
        Ok(Some((at, records))) => objection(at, records, &host, directory, account),
        Ok(None) | Err(_) => None,
    };
    let unasked = all["managed"].is_array() && text::find(&all, &host).is_empty();
    let (seen, verdict) = verdict(&host, &looks, objection, unasked);
    match flags.ask.output {
        Output::Json => {
            let said = as_json(&host, &looks, &records, seen, &verdict);
            app::say(&format!("{said:#}\n"));
        }
        Output::Text => app::say(&as_text(&host, &looks, &records, seen, &verdict)),
    }
    Ok(seen == "Ok")
}

/// One look for each address; one for all where there is none.
async fn everywhere(resolver: &Resolver, host: &str, port: u16, thumbprint: &str) -> Vec<Look> {
    match resolver.addresses(host).await {
        Ok(addresses) if addresses.len() > 1 => {
            let addresses = addresses.iter().take(MOST);
            join_all(addresses.map(|it| look_at(resolver, host, *it, port, thumbprint))).await
        }
        // It says what is wrong with the name, too.
        _ => vec![look_by(resolver, host, port, thumbprint).await],
    }
}

/// What to fix, in a word and a sentence.
fn verdict(
    host: &str,
    looks: &[Look],
    objection: Option<String>,
    unasked: bool,
) -> (&'static str, String) {
    if unasked {
        let text = format!(
            "no Ingress asks for a certificate for {host}: annotate one with kubernetes.io/tls-acme: \
             \"true\" and name the host and a secretName under spec.tls"
        );
        return ("NotAsked", text);
    }
    let first_of = |seen: Seen| looks.iter().find(|it| it.seen == seen);
    // What a CA would stumble over first.
    let order = [Seen::NoDns, Seen::Foreign, Seen::Unreachable, Seen::PartlyIpv6];
    if let Some(bad) = order.into_iter().find_map(first_of) {
        let right = looks.iter().filter(|it| it.seen == Seen::Ok).count();
        let text = match right {
            0 => bad.text.clone(),
            _ => format!("{} ({right} of its {} addresses are right)", bad.text, looks.len()),
        };
        return (bad.seen.as_str(), text);
    }
    if let Some(objection) = objection {
        return ("CAA", objection);
    }
    match (first_of(Seen::Ok), looks.first()) {
        (Some(_), _) => ("Ok", format!("{host} is ready: a CA would find our answer")),
        (None, Some(look)) => (look.seen.as_str(), look.text.clone()),
        (None, None) => (Seen::NoDns.as_str(), format!("{host} has no address")),
    }
}

/// Why CAA records would make our CA refuse (RFC 8659, RFC 8657), as far as can be told.
fn objection(
    at: &str,
    records: &[Caa],
    host: &str,
    directory: &str,
    account: &str,
) -> Option<String> {
    let (_, ours) = IDENTITIES.iter().find(|(part, _)| directory.contains(part))?;
    let issue: Vec<&str> =
        records.iter().filter(|it| it.tag == "issue").map(|it| &*it.value).collect();
    if issue.is_empty() {
        return None;
    }
    let domain = |it: &str| it.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let mut allowing = issue.iter().filter(|it| domain(it) == *ours).peekable();
    if allowing.peek().is_none() {
        return Some(format!(
            "the CAA record of {at} lets only others issue for {host}: add one that says \
             0 issue \"{ours}\""
        ));
    }
    let parameter = |it: &str, name: &str| {
        let found = it.split(';').skip(1).filter_map(|it| it.trim().split_once('='));
        found.filter(|(key, _)| key.trim() == name).map(|(_, it)| it.trim().to_owned()).next()
    };
    let suits = |it: &&&str| {
        let method = parameter(it, "validationmethods");
        let uri = parameter(it, "accounturi");
        method.is_none_or(|it| it.split(',').any(|it| it.trim() == "http-01"))
            && (account.is_empty() || uri.is_none_or(|it| it == account))
    };
    if allowing.any(|it| suits(&it)) {
        return None;
    }
    Some(format!(
        "the CAA record of {at} lets {ours} issue for another account, or not by http-01: allow \
         validationmethods=http-01{}",
        if account.is_empty() { String::new() } else { format!(" and accounturi={account}") }
    ))
}

type Records = Result<Option<(String, Vec<Caa>)>, String>;

fn as_json(host: &str, looks: &[Look], records: &Records, seen: &str, verdict: &str) -> Value {
    let addresses = looks.iter().flat_map(|look| {
        let of = |address: &IpAddr| {
            json!({ "address": address.to_string(), "seen": look.seen.as_str(), "text": look.text })
        };
        look.addresses.iter().map(of)
    });
    let caa = match records {
        Ok(None) => json!([]),
        Ok(Some((at, records))) => records
            .iter()
            .map(|it| json!({ "name": at, "tag": it.tag, "value": it.value }))
            .collect(),
        Err(_) => Value::Null,
    };
    json!({
        "host": host,
        "addresses": addresses.collect::<Vec<_>>(),
        "caa": caa,
        "seen": seen,
        "text": verdict,
    })
}

fn as_text(host: &str, looks: &[Look], records: &Records, seen: &str, verdict: &str) -> String {
    let mut lines = vec![host.to_owned()];
    for look in looks {
        for address in &look.addresses {
            lines.push(format!("  {address:<15}  {}", look.seen.as_str()));
        }
    }
    match records {
        Ok(None) => lines.push("  CAA              none: every CA may issue".to_owned()),
        Ok(Some((at, records))) => {
            for Caa { tag, value } in records {
                lines.push(format!("  CAA              {at}: {tag} {value:?}"));
            }
        }
        Err(error) => lines.push(format!("  CAA              not known: {error}")),
    }
    lines.push(format!("{seen}: {verdict}."));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(address: [u8; 4], seen: Seen) -> Look {
        let text = format!("text of {}", seen.as_str());
        Look { seen, text, addresses: vec![IpAddr::from(address)] }
    }

    #[test]
    fn r_vis_one_sentence_says_what_to_fix() {
        let one = |it| seen([192, 0, 2, 1], it);
        let objection = || Some("add CAA".to_owned());
        for (looks, objection, unasked, expected, part) in [
            (vec![one(Seen::Ok)], None, false, "Ok", "ready"),
            (vec![one(Seen::Ok)], None, true, "NotAsked", "tls-acme"),
            (vec![one(Seen::Ok)], objection(), false, "CAA", "add CAA"),
            (vec![one(Seen::Foreign)], objection(), false, "Foreign", "text of Foreign"),
            (vec![one(Seen::Ok), one(Seen::Unreachable)], None, false, "Unreachable", "1 of its 2"),
            (vec![one(Seen::Inconclusive)], None, false, "Inconclusive", "text of"),
            (vec![one(Seen::Ok), one(Seen::Inconclusive)], None, false, "Ok", "ready"),
            (vec![one(Seen::Unreachable), one(Seen::Foreign)], None, false, "Foreign", "text of"),
        ] {
            let (word, text) = verdict("a.test", &looks, objection, unasked);
            assert_eq!(word, expected, "{looks:?}");
            assert!(text.contains(part), "{looks:?}: {text}");
        }
    }

    #[test]
    fn r_vis_caa_records_that_shut_us_out_are_named() {
        const CA: &str = "https://acme-v02.api.letsencrypt.org/directory";
        const ACCOUNT: &str = "https://acme-v02.api.letsencrypt.org/acme/acct/1";
        let mine = format!("letsencrypt.org; accounturi={ACCOUNT}");
        for (directory, values, fine) in [
            (CA, &["letsencrypt.org"][..], true),
            (CA, &["other.test", "LetsEncrypt.org"], true),
            (CA, &["other.test"], false),
            (CA, &[";"], false),
            (CA, &[&mine], true),
            (CA, &["letsencrypt.org; accounturi=https://x/2"], false),
            (CA, &["letsencrypt.org; validationmethods=dns-01"], false),
            (CA, &["letsencrypt.org; validationmethods=dns-01,http-01"], true),
            // What a CA unknown to us wants to read there is not known.
            ("https://ca.internal/directory", &["other.test"], true),
        ] {
            let record = |it: &&str| Caa { tag: "issue".to_owned(), value: (*it).to_owned() };
            let records: Vec<Caa> = values.iter().map(record).collect();
            let found = objection("b.test", &records, "a.b.test", directory, ACCOUNT);
            assert_eq!(found.is_none(), fine, "{values:?}: {found:?}");
        }
    }
}
