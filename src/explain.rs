//! `lockgate explain`: what becomes of one request, step by step, and why.
//!
//! Floor 7. The proxy's own functions decide, on what the compiler makes of the objects; nothing is sent to
//! anybody, and nothing is written.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use http::HeaderMap;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::app;
use crate::args::{self, Output};
use crate::certs;
use crate::compile::objects::Objects;
use crate::compile::{Policy, compile};
use crate::live::Live;
use crate::model::host::HostPattern;
use crate::model::name::{Kind, ObjectName};
use crate::model::plan::Plan;
use crate::model::problem::Problem;
use crate::proxy::Ports;
use crate::proxy::explain::{Answer, Explanation, Question, explain};

/// Explains a request; the code is 1 where nobody serves it.
pub async fn run(args: &args::Explain) -> anyhow::Result<ExitCode> {
    let policy = app::policy(&args.serve);
    let objects = app::objects(&args.files, &args.serve, &policy, "lockgate-explain").await?;
    let (explanation, notes) = told(args, &objects, &policy, app::wall())?;
    let said = match args.output {
        Output::Text => text(&explanation, &notes),
        Output::Json => format!("{:#}\n", in_json(&explanation, &notes)),
    };
    // Whoever reads only the beginning has read enough.
    app::say(&said);
    let served = explanation.answer.is_served();
    Ok(if served { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn told(
    args: &args::Explain,
    objects: &Objects,
    policy: &Policy,
    now: Timestamp,
) -> anyhow::Result<(Explanation, Vec<String>)> {
    let (plan, problems) = compile(objects, policy);
    let live = Live::next(Arc::new(plan), &Live::empty(certs::fake()?));
    let explanation = explain(&live, &question(args, now));
    let host = &args.url.authority.host;
    let notes = notes(&explanation, host, &live.plan, objects, &problems, policy);
    Ok((explanation, notes))
}

fn question(args: &args::Explain, now: Timestamp) -> Question {
    let mut headers = HeaderMap::new();
    for (name, value) in &args.headers {
        headers.append(name, value.clone());
    }
    let serve = &args.serve;
    Question {
        https: args.url.https,
        authority: args.url.authority.clone(),
        target: args.url.target.clone(),
        method: args.method.clone(),
        headers,
        client: args.client,
        ports: Ports { http: serve.external_http_port, https: serve.external_https_port },
        now,
    }
}

/// What else its reader should know: problems of the Ingress that takes the request; of all that could have
/// taken it where nobody serves it, and which of those are not ours.
fn notes(
    explanation: &Explanation,
    host: &str,
    plan: &Plan,
    objects: &Objects,
    problems: &[Problem],
    policy: &Policy,
) -> Vec<String> {
    let mut concerned: Vec<&ObjectName> = explanation.ingress.iter().collect();
    let mut notes = Vec::new();
    if !explanation.answer.is_served() {
        for (name, ingress) in &objects.ingresses {
            let hosts =
                || ingress.rules.iter().filter_map(|it| it.host.parse::<HostPattern>().ok());
            // A rule for any host says little about this one.
            if !hosts().any(|it| it != HostPattern::Any && it.covers(host)) {
                continue;
            }
            if plan.ours.contains(name) {
                concerned.push(name);
                continue;
            }
            let class = &policy.ingress_class;
            notes.push(match &ingress.class {
                Some(other) => format!(
                    "Ingress {name} has a rule for {host} and is left alone: its class {other:?} is not one of \
                     ours (--controller-class={})",
                    policy.controller_class
                ),
                None => format!(
                    "Ingress {name} has a rule for {host} and is left alone: it needs ingressClassName: {class}"
                ),
            });
        }
    }
    let about = |it: &&Problem| match it.kind {
        // Of a whole kind that may not be read: any of it could matter.
        _ if it.object.name.is_empty() => true,
        Kind::Ingress => concerned.contains(&&it.object),
        Kind::ConfigMap => policy.config_map.as_ref() == Some(&it.object),
        // What cannot be read may hold anything.
        Kind::File => !explanation.answer.is_served(),
        _ => false,
    };
    let told =
        |it: &Problem| if it.object.name.is_empty() { it.text.clone() } else { it.to_string() };
    notes.extend(problems.iter().filter(about).map(told));
    notes.dedup();
    notes
}

fn text(explanation: &Explanation, notes: &[String]) -> String {
    let mut out = String::new();
    let width = explanation.steps.iter().map(|it| it.name.len()).max().unwrap_or(0);
    for it in &explanation.steps {
        let _ = writeln!(out, "{:width$}  {}", it.name, it.text);
    }
    let _ = writeln!(out, "\n{}", verdict(explanation));
    if !notes.is_empty() {
        out.push_str("\nWhat is wrong with the objects concerned:\n");
    }
    for it in notes {
        let _ = writeln!(out, "  {it}");
    }
    out
}

fn verdict(explanation: &Explanation) -> String {
    match &explanation.answer {
        Answer::Backend { backend, addresses, error } => {
            let error = error.map(|it| format!(", in place of the error {it}")).unwrap_or_default();
            let place = if addresses.len() == 1 { "at" } else { "at one of" };
            let conditions = explanation.conditions.iter().map(|it| format!(", {it}"));
            let conditions: String = conditions.collect();
            format!(
                "Service {}, port {}, answers{error}, {place} {}{conditions}.",
                backend.service,
                backend.port,
                addresses.join(", ")
            )
        }
        Answer::Own { status, location: Some(location) } => {
            format!("The client is redirected with {status} to {location}")
        }
        Answer::Own { status, location: None } => {
            format!("Lockgate answers with {status} itself, as it was asked to.")
        }
        Answer::Refused { status } => format!("Nobody serves it: the client gets {status}."),
        Answer::Nobody => "Nobody serves it: there is no connection.".to_owned(),
    }
}

fn in_json(explanation: &Explanation, notes: &[String]) -> Value {
    let mut steps: Vec<Value> =
        explanation.steps.iter().map(|it| json!({ "step": it.name, "text": it.text })).collect();
    let answer = match &explanation.answer {
        Answer::Backend { backend, addresses, error } => json!({
            "service": backend.service.to_string(),
            "port": &*backend.port,
            "addresses": addresses,
            "error": error,
        }),
        Answer::Own { status, location } => json!({ "status": status, "location": location }),
        Answer::Refused { status } => json!({ "status": status }),
        Answer::Nobody => Value::Null,
    };
    steps.extend(notes.iter().map(|it| json!({ "step": "problem", "text": it })));
    steps.push(json!({
        "step": "answer",
        "text": verdict(explanation),
        "served": explanation.answer.is_served(),
        "answer": answer,
    }));
    Value::Array(steps)
}

#[cfg(test)]
mod tests;
