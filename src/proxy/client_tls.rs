//! Client certificates: what was found in the handshake, told in HTTP.
//!
//! As in nginx the handshake lets everybody in; who shows no certificate where one is needed, or a bad one,
//! gets 400 from every path. A request is answered on a connection only whose handshake was for the policy of
//! its host (RFC 9110 sections 7.4 and 15.5.20): otherwise a certificate for one host, or none, would open
//! another.

use std::cell::OnceCell;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri};
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::body::ReplyBody;
use super::canonical::Refused;
use super::challenge;
use super::connection::Link;
use super::redirect;
use super::reply::{self, Failure};
use super::{View, Visit};
use crate::live::judge::{Flaw, Judge};
use crate::live::policies::PolicyId;
use crate::live::table::Paths;
use crate::model::client_tls::{Guard, HostTls, Verify};
use crate::model::distinguished;

/// What all names of the fields begin with in which endpoints are told of a client's certificate.
pub(super) const PREFIX: &str = "ssl-client-";
const VERIFY: HeaderName = HeaderName::from_static("ssl-client-verify");
const SUBJECT: HeaderName = HeaderName::from_static("ssl-client-subject-dn");
const ISSUER: HeaderName = HeaderName::from_static("ssl-client-issuer-dn");
const CERTIFICATE: HeaderName = HeaderName::from_static("ssl-client-cert");

/// The certificate that a client showed in its handshake, and proved to be its own.
#[derive(Debug)]
pub(super) struct Shown {
    verdict: Result<(), Flaw>,
    leaf: CertificateDer<'static>,
    subject: Box<str>,
    issuer: Box<str>,
    /// Made when it is first asked for.
    escaped: OnceCell<HeaderValue>,
}

impl Shown {
    /// Has the judge of the handshake's policy look at what was shown, if anything was.
    pub(super) fn new(
        judge: &Judge,
        chain: Option<&[CertificateDer<'static>]>,
        now: UnixTime,
    ) -> Option<Box<Self>> {
        let leaf = chain?.first()?;
        let parsed = X509Certificate::from_der(leaf).ok().map(|(_, it)| it);
        let text = |name| distinguished::text(name).into();
        Some(Box::new(Self {
            verdict: judge.look(chain?, now),
            subject: parsed.as_ref().map(|it| text(it.subject())).unwrap_or_default(),
            issuer: parsed.as_ref().map(|it| text(it.issuer())).unwrap_or_default(),
            leaf: leaf.clone(),
            escaped: OnceCell::new(),
        }))
    }

    /// The certificate in PEM with all but unreserved characters percent-encoded, as nginx's
    /// `$ssl_client_escaped_cert`.
    fn escaped(&self) -> &HeaderValue {
        self.escaped.get_or_init(|| {
            let value = HeaderValue::try_from(escaped_pem(&self.leaf));
            value.unwrap_or(HeaderValue::from_static(""))
        })
    }
}

fn escaped_pem(der: &[u8]) -> String {
    const LINE: usize = 64;
    let mut text = "-----BEGIN%20CERTIFICATE-----%0A".to_owned();
    for line in BASE64_STANDARD.encode(der).as_bytes().chunks(LINE) {
        for byte in line {
            match byte {
                b'+' => text.push_str("%2B"),
                b'/' => text.push_str("%2F"),
                b'=' => text.push_str("%3D"),
                other => text.push(char::from(*other)),
            }
        }
        text.push_str("%0A");
    }
    text + "-----END%20CERTIFICATE-----%0A"
}

/// What is wrong with a request for a host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Wrong {
    /// The handshake was for another policy.
    Connection,
    /// The host cannot ask for what it should.
    Denied,
    /// There is no certificate.
    Missing,
    /// It is not a good one.
    Bad,
    /// It is somebody else's.
    Subject,
}

impl Wrong {
    pub(super) fn failure(self) -> Failure {
        let (status, why) = match self {
            Self::Connection => {
                (StatusCode::MISDIRECTED_REQUEST, "this connection is for other hosts")
            }
            Self::Denied => (StatusCode::FORBIDDEN, "client certificates cannot be checked"),
            Self::Missing => (StatusCode::BAD_REQUEST, "No required SSL certificate was sent"),
            Self::Bad => (StatusCode::BAD_REQUEST, "The SSL certificate error"),
            Self::Subject => (StatusCode::FORBIDDEN, "client certificate unauthorized"),
        };
        Failure::Refused(Refused { status, why })
    }
}

/// Lets a request pass that may come to `paths`, those of its host; or gives its answer. Costs a comparison
/// and a look for hosts that ask for nothing.
pub(super) fn admit(
    visit: &Visit<'_>,
    paths: Option<&Paths>,
    uri: &Uri,
) -> Result<Option<Response<ReplyBody>>, Failure> {
    let Some(wrong) = wrong(visit.link, paths) else { return Ok(None) };
    // Who solves challenges for a CA is asked in clear, where nobody can show a certificate.
    if !visit.link.peer.tls && challenge::is_solvers(visit.asked.path(uri), &visit.way.route.path) {
        return Ok(None);
    }
    answer(wrong, &visit.view(), paths, uri).map(Some)
}

/// What a request gets with which something is wrong.
pub(super) fn answer(
    wrong: Wrong,
    view: &View<'_>,
    paths: Option<&Paths>,
    uri: &Uri,
) -> Result<Response<ReplyBody>, Failure> {
    if wrong == Wrong::Connection || wrong == Wrong::Denied {
        return Err(wrong.failure());
    }
    // In clear nobody can show a certificate: over HTTPS it can be asked for.
    if !view.peer.tls
        && let Some(answer) = redirect::to_https(view, uri)
    {
        return Ok(answer);
    }
    let page = paths.and_then(guard).and_then(|it| it.error_page.as_ref());
    match page.filter(|_| wrong != Wrong::Subject) {
        Some(page) => Ok(reply::redirect(StatusCode::FOUND, page)),
        None => Err(wrong.failure()),
    }
}

/// The same for requests that no rule's way is known of.
pub(super) fn check(link: &Link, paths: Option<&Paths>) -> Result<(), Failure> {
    wrong(link, paths).map_or(Ok(()), |it| Err(it.failure()))
}

fn wrong(link: &Link, paths: Option<&Paths>) -> Option<Wrong> {
    let handshake = link.peer.tls.then(|| link.policy.get());
    let wrong = look(handshake, link.shown(), paths);
    if wrong == Some(Wrong::Connection) {
        // A connection that was good for its host until a change of policy would never be again.
        link.finish();
    }
    wrong
}

/// What is wrong with a request on a connection whose handshake, if there was one, was for a policy.
pub(super) fn look(
    handshake: Option<PolicyId>,
    shown: Option<&Shown>,
    paths: Option<&Paths>,
) -> Option<Wrong> {
    let policy = paths.map_or(PolicyId::OPEN, |it| it.policy);
    if handshake.is_some_and(|it| it != policy) {
        return Some(Wrong::Connection);
    }
    match paths?.client_tls.as_deref()? {
        HostTls::Denied => Some(Wrong::Denied),
        HostTls::Through => None,
        HostTls::Asks(guard) => guard.finds_wrong(shown),
    }
}

fn guard(paths: &Paths) -> Option<&Guard> {
    match paths.client_tls.as_deref()? {
        HostTls::Asks(guard) => Some(guard),
        HostTls::Denied | HostTls::Through => None,
    }
}

impl Guard {
    fn finds_wrong(&self, shown: Option<&Shown>) -> Option<Wrong> {
        let verify = self.demand.as_ref().map_or(Verify::Off, |it| it.verify);
        match shown.map(|it| it.verdict) {
            None if verify == Verify::On => return Some(Wrong::Missing),
            Some(Err(flaw)) if verify != Verify::OptionalNoCa || !flaw.is_about_issuer() => {
                return Some(Wrong::Bad);
            }
            _ => {}
        }
        let subject = shown.map_or("", |it| &it.subject);
        (!self.subjects.iter().all(|it| it.is_in(subject))).then_some(Wrong::Subject)
    }
}

/// Tells an endpoint, or an external judge, of the client's certificate, where the host asks for one. What a client says of itself in
/// these fields was taken out before.
pub(super) fn vouch(headers: &mut HeaderMap, visit: &Visit<'_>) {
    let Some(way) = visit.trace.way.get() else { return };
    let Some(tls) = &visit.live.way(way).route.client_tls else { return };
    let HostTls::Asks(guard) = &**tls else { return };
    let Some(shown) = visit.link.shown() else {
        headers.insert(VERIFY, HeaderValue::from_static("NONE"));
        return;
    };
    let verdict = match shown.verdict {
        Ok(()) => HeaderValue::from_static("SUCCESS"),
        Err(flaw) => HeaderValue::try_from(format!("FAILED:{}", flaw.as_str()))
            .unwrap_or(HeaderValue::from_static("FAILED")),
    };
    headers.insert(VERIFY, verdict);
    for (field, name) in [(SUBJECT, &shown.subject), (ISSUER, &shown.issuer)] {
        if let Ok(value) = HeaderValue::from_str(name)
            && !name.is_empty()
        {
            headers.insert(field, value);
        }
    }
    if guard.pass_certificate {
        headers.insert(CERTIFICATE, shown.escaped().clone());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::client_tls::{Demand, Subject};
    use crate::model::upstream::Authorities;

    fn shown(verdict: Result<(), Flaw>) -> Shown {
        Shown {
            verdict,
            leaf: CertificateDer::from(vec![0; 3]),
            subject: "CN=client,O=Acme".into(),
            issuer: "".into(),
            escaped: OnceCell::new(),
        }
    }

    #[test]
    fn each_mode_is_nginxs() {
        use Flaw::{Expired, Revoked, SelfSigned, Stranger};
        let authorities = Arc::new(Authorities(Vec::new()));
        for (word, shows, expected) in [
            ("on", None, Some(Wrong::Missing)),
            ("on", Some(Ok(())), None),
            ("on", Some(Err(Stranger)), Some(Wrong::Bad)),
            ("on", Some(Err(Expired)), Some(Wrong::Bad)),
            ("optional", None, None),
            ("optional", Some(Ok(())), None),
            ("optional", Some(Err(Stranger)), Some(Wrong::Bad)),
            ("optional_no_ca", None, None),
            ("optional_no_ca", Some(Ok(())), None),
            ("optional_no_ca", Some(Err(Stranger)), None),
            ("optional_no_ca", Some(Err(SelfSigned)), None),
            ("optional_no_ca", Some(Err(Expired)), Some(Wrong::Bad)),
            ("optional_no_ca", Some(Err(Revoked)), Some(Wrong::Bad)),
        ] {
            let verify = Verify::parse(word).expect("a mode");
            let authorities = authorities.clone();
            let demand = Demand { authorities, revocations: None, verify, depth: 1 };
            let guard = Guard {
                demand: Some(Arc::new(demand)),
                error_page: None,
                pass_certificate: false,
                subjects: Vec::new(),
            };
            let found = guard.finds_wrong(shows.map(shown).as_ref());
            assert_eq!(found, expected, "{word} {shows:?}");
        }
    }

    #[test]
    fn a_subject_has_to_match_all() {
        for (subjects, shows, expected) in [
            (&["CN=client"][..], true, None),
            (&["CN=client", "CN=.*O=Acme"], true, None),
            (&["CN=client", "CN=other"], true, Some(Wrong::Subject)),
            (&["CN=client"], false, Some(Wrong::Subject)),
            (&[], false, None),
        ] {
            let guard = Guard {
                demand: None,
                error_page: None,
                pass_certificate: false,
                subjects: subjects.iter().filter_map(|it| Subject::parse(it)).collect(),
            };
            let shown = shows.then(|| shown(Ok(())));
            assert_eq!(guard.finds_wrong(shown.as_ref()), expected, "{subjects:?} {shows}");
        }
    }

    #[test]
    fn a_certificate_is_escaped_as_nginx_does() {
        let der = [0xfb; 50];
        let text = escaped_pem(&der);
        let expected = format!(
            "-----BEGIN%20CERTIFICATE-----%0A{}%0A{}%3D%0A-----END%20CERTIFICATE-----%0A",
            "%2B%2Fv7".repeat(16),
            "%2B%2Fs"
        );
        assert_eq!(text, expected);
    }
}
