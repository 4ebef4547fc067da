//! What would become of a request, told step by step: `lockgate explain`.
//!
//! The steps are those of [`super::answer`], in its order, and are decided by the same functions. Nothing is
//! sent: no endpoint, no external judge, no resolver is asked, and no limit counts the request.

mod backend;
mod handshake;
mod walk;
mod words;

use std::net::IpAddr;

use http::header::LOCATION;
use http::{HeaderMap, Method, Response, StatusCode};

use super::Ports;
use super::body::ReplyBody;
use super::reply::Failure;
use crate::live::{Live, WayId};
use crate::model::host::Authority;
use crate::model::name::ObjectName;
use crate::model::plan::BackendId;

/// A request that is only thought of.
#[derive(Clone, Debug)]
pub struct Question {
    /// Whether it comes over TLS.
    pub https: bool,
    /// The host of its URL, with a port where that names one.
    pub authority: Authority,
    /// Path and query as a client sends them.
    pub target: String,
    /// Its method.
    pub method: Method,
    /// Its fields; without `Host` among them it is that of the URL.
    pub headers: HeaderMap,
    /// The other end of its connection.
    pub client: IpAddr,
    /// The ports as the world sees them.
    pub ports: Ports,
    /// When it is asked.
    pub now: jiff::Timestamp,
}

/// What one step found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Step {
    /// The step's name, one or two words.
    pub name: &'static str,
    /// What it found.
    pub text: String,
}

/// Who answers in the end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// An endpoint of a Service.
    Backend {
        /// The Service and its port.
        backend: BackendId,
        /// Its endpoints, or the name and port of an `ExternalName` Service.
        addresses: Vec<String>,
        /// The status of an error in whose place the default backend answers.
        error: Option<u16>,
    },
    /// The proxy itself, with what was asked for: a redirect, a fixed answer, a challenge, a preflight.
    Own {
        /// Its status.
        status: u16,
        /// Where it redirects to.
        location: Option<String>,
    },
    /// The proxy itself, with an error.
    Refused {
        /// Its status.
        status: u16,
    },
    /// Nobody: there is not even a connection.
    Nobody,
}

/// What becomes of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Explanation {
    /// The steps that had a say, in their order.
    pub steps: Vec<Step>,
    /// Who answers.
    pub answer: Answer,
    /// The Ingress whose rule takes it.
    pub ingress: Option<ObjectName>,
    /// What that depends on, as clauses: a judge who is not asked, chance.
    pub conditions: Vec<String>,
}

impl Answer {
    /// Whether the request gets what somebody wanted it to get.
    pub fn is_served(&self) -> bool {
        matches!(self, Self::Backend { .. } | Self::Own { .. })
    }

    fn own(response: &Response<ReplyBody>) -> Self {
        let location = response.headers().get(LOCATION);
        let location = location.map(|it| String::from_utf8_lossy(it.as_bytes()).into_owned());
        Self::Own { status: response.status().as_u16(), location }
    }

    fn status(&self) -> Option<StatusCode> {
        let (Self::Own { status, .. } | Self::Refused { status }) = self else { return None };
        StatusCode::from_u16(*status).ok()
    }
}

/// Tells what becomes of a request.
pub fn explain(live: &Live, question: &Question) -> Explanation {
    let mut told = Told::default();
    let answer = walk::walk(live, question, &mut told);
    let answer = walk::instead(live, &mut told, answer);
    let Told { steps, ingress, conditions, .. } = told;
    Explanation { steps, answer, ingress, conditions }
}

/// What was told so far.
#[derive(Default)]
struct Told {
    steps: Vec<Step>,
    ingress: Option<ObjectName>,
    conditions: Vec<String>,
    /// The way it takes.
    way: Option<WayId>,
    /// Whether somebody else may answer by now in place of an error.
    replaceable: bool,
}

impl Told {
    fn say(&mut self, name: &'static str, text: impl Into<String>) {
        self.steps.push(Step { name, text: text.into() });
    }

    /// An answer of ours that somebody asked for.
    fn own(&mut self, name: &'static str, what: &str, response: &Response<ReplyBody>) -> Answer {
        let answer = Answer::own(response);
        let status = words::status(response.status());
        self.say(
            name,
            match &answer {
                Answer::Own { location: Some(location), .. } => {
                    format!("{what}: {status} to {location}")
                }
                _ => format!("{what}: {status}"),
            },
        );
        answer
    }

    fn fail(&mut self, name: &'static str, what: &str, failure: &Failure) -> Answer {
        let status = failure.status();
        let text = words::status(status);
        self.say(
            name,
            match failure {
                Failure::Refused(refused) if what.is_empty() => format!("{}: {text}", refused.why),
                Failure::Refused(refused) => format!("{what}: {}: {text}", refused.why),
                _ => format!("{what}: {text}"),
            },
        );
        Answer::Refused { status: status.as_u16() }
    }
}
