//! Certificates as people read them.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::Value;

/// What each state means for a person; the first column is [`crate::certs::standing::State`]'s name.
pub(super) const STATES: [(&str, &str); 13] = [
    ("Unmanaged", "somebody else's Secret, served as it is: `lockgate cert adopt` hands it over"),
    ("Conflict", "two writers or two Ingresses want different things: leave one of them"),
    ("Blocked", "it cannot be had like this: change what the reason names"),
    ("WaitingForRoute", "a host does not lead here yet: `lockgate cert check HOST` says why"),
    ("Checking", "about to be ordered"),
    ("Claimed", "key and request are stored, the order comes next"),
    ("Ordering", "the order is being placed"),
    ("Validating", "the CA is asking the hosts"),
    ("Finalizing", "the CA is signing"),
    ("Downloading", "the chain is being fetched"),
    ("Storing", "the chain is being written to the Secret"),
    ("Ready", "nothing to do"),
    ("Backoff", "it failed and is tried again by itself: the last error says why"),
];

/// States in which somebody should look.
const UNWELL: [&str; 4] = ["Conflict", "Blocked", "WaitingForRoute", "Backoff"];

/// A JSON text as it is, and nothing for `null`.
pub(super) fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn words(value: &Value) -> String {
    let all: Vec<&str> = value.as_array().into_iter().flatten().map(word).collect();
    all.join(", ")
}

fn managed(all: &Value) -> impl Iterator<Item = &Value> {
    all["managed"].as_array().into_iter().flatten()
}

/// The managed certificates in a Secret, named with or without its namespace, or for a host.
pub(super) fn find<'a>(all: &'a Value, of: &str) -> Vec<&'a Value> {
    let host = of.trim_end_matches('.').to_ascii_lowercase();
    let matches = |it: &&Value| {
        let secret = word(&it["secret"]);
        let bare = secret.split_once('/').map_or(secret, |(_, name)| name);
        let names = it["names"].as_array().into_iter().flatten();
        secret == of || bare == of || names.map(word).any(|name| name == host)
    };
    managed(all).filter(matches).collect()
}

/// Whether nobody needs to look at a certificate.
pub(super) fn is_well(certificate: &Value, now: Timestamp) -> bool {
    let end = word(&certificate["notAfter"]).parse::<Timestamp>();
    !UNWELL.contains(&word(&certificate["state"])) && end.is_ok_and(|it| it > now)
}

/// All managed certificates, a line each.
pub(super) fn table(all: &Value, now: Timestamp) -> String {
    let mut rows = vec![["SECRET", "STATE", "EXPIRES", "RENEWS", "HOSTS"].map(str::to_owned)];
    for it in managed(all) {
        rows.push([
            word(&it["secret"]).to_owned(),
            word(&it["state"]).to_owned(),
            until(&it["notAfter"], now),
            until(&it["renewAt"], now),
            words(&it["names"]),
        ]);
    }
    if rows.len() == 1 {
        return "No Ingress asks for a certificate: kubernetes.io/tls-acme: \"true\" does, with hosts and \
                secretName under spec.tls.\n"
            .to_owned();
    }
    let width = |column: usize| rows.iter().map(|it| it[column].len()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3)];
    let mut table = String::new();
    for [secret, state, expires, renews, hosts] in &rows {
        let [a, b, c, d] = widths;
        let line = format!("{secret:a$}  {state:b$}  {expires:c$}  {renews:d$}  {hosts}");
        let _ = writeln!(table, "{}", line.trim_end());
    }
    table
}

/// All there is to know of one certificate, and what to do.
pub(super) fn description(certificate: &Value, ca: &Value, now: Timestamp) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            let _ = writeln!(text, "{name:<10} {value}");
        }
    };
    let moment = |value: &Value| match word(value) {
        "" => String::new(),
        it => format!("{it} ({})", until(value, now)),
    };
    let of = |name: &str| &certificate[name];
    let state = word(of("state"));
    line("Secret", word(of("secret")).to_owned());
    line("State", [state, word(of("why"))].join(": ").trim_end_matches(": ").to_owned());
    line("Hosts", words(of("names")));
    line("Ingresses", words(of("ingresses")));
    line("Issuer", word(of("issuer")).to_owned());
    line("Account", word(&ca["account"]).to_owned());
    line("Good from", moment(of("notBefore")));
    line("Good until", moment(of("notAfter")));
    let source = match word(of("renewSource")) {
        "ari" => ", as the CA asks",
        "backstop" => ", the latest we wait",
        "rule" => ", by its lifetime",
        _ => "",
    };
    if !of("renewAt").is_null() {
        line("Renewal", format!("{}{source}", moment(of("renewAt"))));
    }
    line("Order", word(of("order")).to_owned());
    line(
        "Shown",
        match word(of("servedSerial")) {
            "" => "this replica serves nothing from this Secret yet".to_owned(),
            serial => format!("serial {serial}, by this replica"),
        },
    );
    if let Some(count) = of("attempts").as_u64().filter(|it| *it > 0) {
        line("Failures", format!("{count} in a row"));
    }
    line("Last error", word(of("lastError")).to_owned());
    line("Next try", moment(of("nextTry")));
    if ca["up"] == false {
        line("CA", format!("does not answer: {}", word(&ca["error"])));
    }
    if ca["leader"] == false {
        line(
            "Note",
            "this replica does not lead: the leader knows more of what is under way".into(),
        );
    }
    if let Some((_, meaning)) = STATES.iter().find(|(name, _)| *name == state) {
        line("Meaning", (*meaning).to_owned());
    }
    text
}

/// How long it is to a moment, in its two largest units.
fn until(moment: &Value, now: Timestamp) -> String {
    let Ok(moment) = word(moment).parse::<Timestamp>() else { return "-".to_owned() };
    let seconds = moment.as_second() - now.as_second();
    let far = seconds.unsigned_abs();
    let length = match (far / 86_400, far / 3600 % 24, far / 60 % 60, far % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (0, hours, minutes, _) => format!("{hours}h{minutes}m"),
        (days @ 1..10, hours, ..) => format!("{days}d{hours}h"),
        (days, ..) => format!("{days}d"),
    };
    if seconds < 0 { format!("{length} ago") } else { format!("in {length}") }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;
    use crate::certs::standing::State;

    fn now() -> Timestamp {
        "2027-01-01T00:00:00Z".parse().expect("a moment")
    }

    fn sample() -> Value {
        json!({
            "managed": [
                {
                    "secret": "shop/web-tls", "state": "Ready", "why": "", "names": ["a.test", "b.test"],
                    "ingresses": ["shop/web"], "issuer": "https://ca.test/dir",
                    "notBefore": "2026-12-01T00:00:00Z", "notAfter": "2027-03-01T00:00:00Z",
                    "renewAt": "2027-01-30T12:00:00Z", "renewSource": "ari", "attempts": 0,
                    "lastError": null, "nextTry": null, "order": null, "servedSerial": "0a1b",
                },
                {
                    "secret": "shop/new-tls", "state": "Backoff", "why": "validation failed",
                    "names": ["c.test"], "ingresses": ["shop/new"], "issuer": "https://ca.test/dir",
                    "notBefore": null, "notAfter": null, "renewAt": null, "renewSource": "",
                    "attempts": 2, "lastError": "c.test: dns: no such name",
                    "nextTry": "2027-01-01T00:09:30Z", "order": null, "servedSerial": null,
                },
            ],
            "ca": { "leader": true, "up": true, "account": "https://ca.test/acct/1" },
        })
    }

    #[test]
    fn a_table_has_a_line_each() {
        expect![[r"
            SECRET        STATE    EXPIRES  RENEWS  HOSTS
            shop/web-tls  Ready    in 59d   in 29d  a.test, b.test
            shop/new-tls  Backoff  -        -       c.test
        "]]
        .assert_eq(&table(&sample(), now()));
        let none = table(&json!({ "managed": [] }), now());
        assert!(none.contains("kubernetes.io/tls-acme"), "{none}");
    }

    #[test]
    fn a_description_says_what_to_do() {
        let all = sample();
        let texts: Vec<_> = managed(&all).map(|it| description(it, &all["ca"], now())).collect();
        expect![[r"
            Secret     shop/web-tls
            State      Ready
            Hosts      a.test, b.test
            Ingresses  shop/web
            Issuer     https://ca.test/dir
            Account    https://ca.test/acct/1
            Good from  2026-12-01T00:00:00Z (31d ago)
            Good until 2027-03-01T00:00:00Z (in 59d)
            Renewal    2027-01-30T12:00:00Z (in 29d), as the CA asks
            Shown      serial 0a1b, by this replica
            Meaning    nothing to do

            Secret     shop/new-tls
            State      Backoff: validation failed
            Hosts      c.test
            Ingresses  shop/new
            Issuer     https://ca.test/dir
            Account    https://ca.test/acct/1
            Shown      this replica serves nothing from this Secret yet
            Failures   2 in a row
            Last error c.test: dns: no such name
            Next try   2027-01-01T00:09:30Z (in 9m30s)
            Meaning    it failed and is tried again by itself: the last error says why
        "]]
        .assert_eq(&texts.join("\n"));
    }

    #[test]
    fn a_certificate_is_found_by_secret_and_by_host() {
        let all = sample();
        for (of, expected) in [
            ("shop/web-tls", Some("shop/web-tls")),
            ("web-tls", Some("shop/web-tls")),
            ("B.test.", Some("shop/web-tls")),
            ("c.test", Some("shop/new-tls")),
            ("other/web-tls", None),
            ("d.test", None),
        ] {
            let found = find(&all, of);
            assert_eq!(found.first().map(|it| word(&it["secret"])), expected, "{of}");
        }
    }

    #[test]
    fn whoever_expired_or_waits_for_somebody_is_not_well() {
        let all = sample();
        let mut certificate = all["managed"][0].clone();
        assert!(is_well(&certificate, now()));
        assert!(!is_well(&all["managed"][1], now()));
        certificate["notAfter"] = json!("2026-12-31T00:00:00Z");
        assert!(!is_well(&certificate, now()), "expired");
    }

    #[test]
    fn each_state_is_explained() {
        assert_eq!(State::ALL.map(|it| it.to_string()), STATES.map(|(name, _)| name.to_owned()));
        assert!(UNWELL.iter().all(|it| STATES.iter().any(|(name, _)| name == it)));
    }
}
