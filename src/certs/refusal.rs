//! What a CA's refusals mean: RFC 8555 section 6.7, and what stands in for it when a CA is in trouble.

use instant_acme::{Error, Identifier, Order, OrderStatus, Problem};

use super::acme::Acme;
use super::client::Unheard;
use super::eab;
use super::limit;
use super::trouble::Trouble;

impl Acme {
    /// Sorts an error; after one that says the account is unknown, it is made again next time.
    pub(super) async fn sort(&self, error: Error) -> Trouble {
        let trouble = self.sort_now(error);
        if matches!(trouble, Trouble::Account(_)) {
            *self.account.lock().await = None;
        }
        trouble
    }

    pub(super) fn sort_now(&self, error: Error) -> Trouble {
        let down = |text: String| Trouble::Down { text, wait: None };
        match error {
            Error::Api(problem) => self.sort_problem(&problem, None, None),
            Error::Other(other) => match other.downcast_ref::<Unheard>() {
                Some(unheard) => self.unheard(unheard),
                None => down(other.to_string()),
            },
            Error::Timeout(_) => Trouble::Unfinished("it takes too long".to_owned()),
            other => down(other.to_string()),
        }
    }

    pub(super) fn unheard(&self, unheard: &Unheard) -> Trouble {
        let text = unheard.to_string();
        match unheard {
            Unheard::Deposed => Trouble::Deposed,
            Unheard::Refused(it) => self.sort_problem(&it.problem, Some(it.status), it.wait),
            Unheard::Status(429, wait) => self.limited(text, *wait),
            Unheard::Status(_, wait) => Trouble::Down { text, wait: *wait },
            Unheard::Slow | Unheard::Broken(_) => Trouble::Down { text, wait: None },
        }
    }

    fn limited(&self, text: String, wait: Option<i64>) -> Trouble {
        let now = (self.wall)().as_second() - super::skew(self.skew());
        Trouble::Limited(limit::read(text, wait, now))
    }

    /// `status` is that of the answer; a problem inside of an object has none.
    pub(super) fn sort_problem(
        &self,
        problem: &Problem,
        status: Option<u16>,
        wait: Option<i64>,
    ) -> Trouble {
        let (text, bad) = (described(problem), names_in(problem));
        match kind(problem) {
            "rateLimited" => self.limited(text, wait),
            _ if status == Some(429) => self.limited(text, wait),
            "badNonce" => Trouble::Nonces(text),
            "orderNotReady" => Trouble::Unfinished(text),
            "accountDoesNotExist" => Trouble::Account(text),
            "serverInternal" => Trouble::Down { text, wait },
            "connection" | "dns" | "incorrectResponse" | "tls" => Trouble::Invalid { text, bad },
            // Inside of an object it is about a challenge, else about us.
            "unauthorized" if status.is_none() => Trouble::Invalid { text, bad },
            "externalAccountRequired" => {
                Trouble::Refused { text: format!("{text}: {}", eab::MISSING), bad }
            }
            _ if status.or(problem.status).is_some_and(|it| it >= 500) => {
                Trouble::Down { text, wait }
            }
            _ => Trouble::Refused { text, bad },
        }
    }

    /// Why an order ended, by the problem in it.
    ///
    /// It will not go on, so nobody waits for it, and it says nothing of the CA as a whole: what would do
    /// both in an answer does neither here.
    pub(super) fn ended(&self, problem: &Problem) -> Trouble {
        let trouble = self.sort_problem(problem, None, None);
        // Nonces are those of a request, which instant-acme gave up.
        if let Trouble::Invalid { .. } | Trouble::Refused { .. } | Trouble::Nonces(_) = trouble {
            return trouble;
        }
        let text = format!("the order ended with {}", described(problem));
        Trouble::Invalid { text, bad: names_in(problem) }
    }

    /// What the CA says went wrong with each name.
    pub(super) async fn reasons(&self, order: &mut Order) -> Trouble {
        let over = order.state().status == OrderStatus::Invalid;
        let (mut reasons, mut bad, mut refused) = (Vec::new(), Vec::new(), false);
        let mut authorizations = order.authorizations();
        loop {
            let authorization = match authorizations.next().await {
                None => break,
                Some(Ok(authorization)) => authorization,
                // It is over all the same.
                Some(Err(error)) if over && refusal(&error).is_some() => break,
                Some(Err(error)) => return self.sort(error).await,
            };
            let name = authorization.identifier().to_string();
            for problem in authorization.challenges.iter().filter_map(|it| it.error.as_ref()) {
                reasons.push(format!("{name}: {}", described(problem)));
                refused |= matches!(kind(problem), "caa" | "rejectedIdentifier");
                self.client.meter().inspect(|it| it.failed(kind(problem)));
                bad.push(name.clone());
            }
        }
        bad.dedup();
        let text = reasons.join("; ");
        match order.state().error.clone() {
            _ if refused => Trouble::Refused { text, bad },
            _ if !bad.is_empty() => Trouble::Invalid { text, bad },
            Some(problem) => self.ended(&problem),
            None if over => Trouble::Invalid { text: "it does not say why".to_owned(), bad },
            None => Trouble::Unfinished("it did not finish validating in time".to_owned()),
        }
    }
}

/// The problem in an error, and the status it came with.
pub(super) fn refusal(error: &Error) -> Option<(&Problem, u16)> {
    match error {
        Error::Api(problem) => Some((problem, problem.status.unwrap_or(0))),
        Error::Other(other) => match other.downcast_ref::<Unheard>()? {
            Unheard::Refused(it) => Some((&it.problem, it.status)),
            _ => None,
        },
        _ => None,
    }
}

fn kind(problem: &Problem) -> &str {
    problem.r#type.as_deref().unwrap_or_default().rsplit(':').next().unwrap_or_default()
}

pub(super) fn is_a(error: &Error, wanted: &str) -> bool {
    refusal(error).is_some_and(|(problem, _)| kind(problem) == wanted)
}

/// How sure it is that the CA no longer knows an order, or never did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Gone {
    /// It says so.
    Surely,
    /// It refuses to show it, as it does when a request came out wrong.
    Perhaps,
}

/// Whether an error says that an order is gone.
pub(super) fn gone(error: &Error) -> Option<Gone> {
    match refusal(error)? {
        (_, 404) => Some(Gone::Surely),
        (problem, _) if matches!(kind(problem), "malformed" | "unauthorized") => {
            Some(Gone::Perhaps)
        }
        _ => None,
    }
}

/// Whether an order was refused, or answered otherwise than it was asked, for the sake of `replaces`.
pub(super) fn is_about_replacing(error: &Error) -> bool {
    match refusal(error) {
        Some((problem, status)) => {
            status == 404
                || matches!(kind(problem), "alreadyReplaced" | "unauthorized" | "malformed")
        }
        // What instant-acme says of an order that came back without it.
        None => match error {
            Error::Unsupported(_) => true,
            Error::Other(other) => !other.is::<Unheard>(),
            _ => false,
        },
    }
}

/// The names that the parts of a problem are about.
fn names_in(problem: &Problem) -> Vec<String> {
    problem.subproblems.iter().filter_map(|it| name_of(it.identifier.as_ref())).collect()
}

fn name_of(identifier: Option<&Identifier>) -> Option<String> {
    match identifier? {
        Identifier::Dns(name) => Some(name.clone()),
        _ => None,
    }
}

/// The type and words of a problem and of all that are in it.
fn described(problem: &Problem) -> String {
    let mut text =
        format!("{}: {}", kind(problem), problem.detail.as_deref().unwrap_or("no detail"));
    for inner in &problem.subproblems {
        text.push_str("; ");
        if let Some(name) = name_of(inner.identifier.as_ref()) {
            text.push_str(&name);
            text.push_str(": ");
        }
        text.push_str(inner.detail.as_deref().unwrap_or("no detail"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::acme::AcmeOptions;
    use super::super::client::Refusal;
    use super::super::trouble::Class;
    use jiff::Timestamp;

    use std::sync::Arc;

    use super::*;
    use crate::lease::Leadership;
    use crate::metrics::{Metrics, Replica};
    use crate::model::name::ObjectName;

    fn acme() -> Acme {
        let options = AcmeOptions {
            directory: "https://ca.test/directory".to_owned(),
            trust: Some(Vec::new()),
            email: None,
            profile: None,
            binding: None,
            account: ObjectName::new("lockgate", "account"),
        };
        let metrics = Arc::new(Metrics::new(&Replica::default()).expect("names differ"));
        Acme::new(options, Leadership::sole(), metrics, || Timestamp::UNIX_EPOCH).expect("a CA")
    }

    fn refused(kind: &str, status: u16) -> Error {
        let problem = Problem {
            r#type: Some(format!("urn:ietf:params:acme:error:{kind}")),
            detail: Some("no".to_owned()),
            status: None,
            subproblems: Vec::new(),
        };
        let refusal = Refusal { problem, status, wait: Some(7) };
        Error::Other(Box::new(Unheard::Refused(Box::new(refusal))))
    }

    #[test]
    fn r_bak_errors_are_sorted_by_whose_fault_they_are() {
        let acme = acme();
        let status = |it| Error::Other(Box::new(Unheard::Status(it, None)));
        for (error, expected) in [
            (refused("rateLimited", 429), Class::C),
            (refused("malformed", 429), Class::C),
            (status(429), Class::C),
            (status(503), Class::A),
            (status(404), Class::A),
            (refused("serverInternal", 500), Class::A),
            (refused("malformed", 503), Class::A),
            (Error::Other(Box::new(Unheard::Slow)), Class::A),
            (Error::Str("error response from newNonce resource"), Class::A),
            (refused("rejectedIdentifier", 400), Class::D),
            (refused("caa", 403), Class::D),
            (refused("badCSR", 400), Class::D),
            (refused("unauthorized", 403), Class::D),
            (refused("userActionRequired", 403), Class::D),
            (refused("externalAccountRequired", 403), Class::D),
            (refused("connection", 400), Class::B),
            (refused("dns", 400), Class::B),
            (refused("accountDoesNotExist", 400), Class::G),
            (Error::Other(Box::new(Unheard::Deposed)), Class::F),
        ] {
            let text = format!("{error:?}");
            assert_eq!(acme.sort_now(error).class(), expected, "{text}");
        }
    }

    /// What is waited for in an answer is no reason to take up an order again that is over.
    #[test]
    fn r_ca_the_end_of_one_order_is_that_orders_own() {
        let acme = acme();
        for (kind, status, expected) in [
            ("serverInternal", Some(500), Class::B),
            ("serverInternal", None, Class::B),
            ("rateLimited", Some(429), Class::B),
            ("orderNotReady", Some(403), Class::B),
            ("accountDoesNotExist", Some(400), Class::B),
            ("compound", Some(503), Class::B),
            ("unauthorized", Some(403), Class::B),
            ("connection", Some(400), Class::B),
            ("caa", Some(403), Class::D),
            ("badCSR", None, Class::D),
            // Of a request, not of the order.
            ("badNonce", Some(400), Class::A),
        ] {
            let problem = Problem {
                r#type: Some(format!("urn:ietf:params:acme:error:{kind}")),
                detail: Some("no".to_owned()),
                status,
                subproblems: Vec::new(),
            };
            assert_eq!(acme.ended(&problem).class(), expected, "{kind} {status:?}");
        }
    }

    #[test]
    fn r_fly_one_odd_answer_does_not_end_an_order() {
        let status = |it| Error::Other(Box::new(Unheard::Status(it, None)));
        for (error, expected) in [
            (refused("malformed", 404), Some(Gone::Surely)),
            (refused("notFound", 404), Some(Gone::Surely)),
            (refused("malformed", 400), Some(Gone::Perhaps)),
            (refused("unauthorized", 403), Some(Gone::Perhaps)),
            (refused("serverInternal", 500), None),
            (refused("rateLimited", 429), None),
            (status(404), None),
        ] {
            assert_eq!(gone(&error), expected, "{error:?}");
        }
    }

    #[test]
    fn r_ren_6_what_is_about_replacing_is_known() {
        for (error, expected) in [
            (refused("alreadyReplaced", 409), true),
            (refused("unauthorized", 403), true),
            (refused("malformed", 400), true),
            (refused("notFound", 404), true),
            (Error::Unsupported("ARI"), true),
            (Error::Other("replaces field mismatch".into()), true),
            (refused("rateLimited", 429), false),
            (refused("serverInternal", 500), false),
            (Error::Other(Box::new(Unheard::Slow)), false),
            (Error::Str("missing"), false),
        ] {
            assert_eq!(is_about_replacing(&error), expected, "{error:?}");
        }
    }
}
