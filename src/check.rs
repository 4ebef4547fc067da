//! `lockgate check`: what works, what differs and what is refused, object by object, before anything is
//! served.
//!
//! Floor 7. The verdicts come from the tables and the compiler that `serve` runs, so that they cannot
//! differ from what happens. Nothing is written, and no Secret's content is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::json;

use crate::app;
use crate::args::{self, Output};
use crate::compile::annotation::{self, Judged, Verdict};
use crate::compile::objects::Objects;
use crate::compile::{Policy, compile, config};
use crate::model::name::{Kind, ObjectName};
use crate::model::plan::{Plan, Target};
use crate::model::problem::Problem;

/// Where each annotation and key is described.
const REFERENCE: &str = "README.md";

/// Reads objects, says what would become of them; the code is 1 where something is refused.
pub async fn run(args: &args::Check) -> anyhow::Result<ExitCode> {
    let policy = app::policy(&args.serve);
    let objects = app::objects(&args.files, &args.serve, &policy, "lockgate-check").await?;
    let review = review(&objects, &policy, !args.files.is_empty());
    match args.output {
        Output::Text => app::say(&text(&review)),
        Output::Json => app::say(&format!("{:#}\n", in_json(&review))),
    }
    let refused = review.iter().any(|it| it.verdict() == Verdict::Refused);
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What is said of one object.
#[derive(Debug)]
struct Reviewed {
    kind: Kind,
    name: ObjectName,
    findings: Vec<Finding>,
}

/// One thing that was found.
#[derive(Debug)]
struct Finding {
    /// An annotation or key with its value; empty for the object as a whole.
    what: String,
    verdict: Verdict,
    /// What is wrong and what happens instead; empty where nothing is.
    text: String,
    /// Where it is described.
    link: Option<String>,
}

impl Reviewed {
    fn verdict(&self) -> Verdict {
        self.findings.iter().map(|it| it.verdict).max().unwrap_or(Verdict::Works)
    }
}

/// Reviews our Ingresses, the ConfigMap, and whatever else has a problem.
fn review(objects: &Objects, policy: &Policy, from_files: bool) -> Vec<Reviewed> {
    let (plan, problems) = compile(objects, policy);
    let mut reviewed: BTreeMap<(Kind, ObjectName), Vec<Finding>> = BTreeMap::new();
    if let Some(name) = &policy.config_map
        && let Some(map) = objects.config_maps.get(name)
    {
        let found = config::judge(map).into_iter().map(|it| Finding::judged(&it, "key"));
        reviewed.insert((Kind::ConfigMap, name.clone()), found.collect());
    }
    // Of these only what is wrong is said.
    for name in [&policy.tcp_services, &policy.udp_services].into_iter().flatten() {
        if objects.config_maps.contains_key(name) {
            reviewed.entry((Kind::ConfigMap, name.clone())).or_default();
        }
    }
    let refused = refused(&plan);
    for name in plan.ours.iter().chain(problems.iter().filter_map(ingress_of)) {
        let Some(ingress) = objects.ingresses.get(name) else { continue };
        let found = annotation::judge(ingress, policy, &plan.settings.options);
        let found = found.iter().map(|it| Finding::judged(it, "annotation"));
        let closed = refused.get(name).into_iter().flatten().map(|text| Finding {
            what: String::new(),
            verdict: Verdict::Refused,
            text: (*text).to_owned(),
            link: None,
        });
        reviewed.insert((Kind::Ingress, name.clone()), found.chain(closed).collect());
    }
    for name in objects.ingresses.keys() {
        reviewed.entry((Kind::Ingress, name.clone())).or_insert_with(|| {
            vec![Finding {
                what: String::new(),
                verdict: Verdict::Works,
                text: "left alone: its class is not ours".to_owned(),
                link: None,
            }]
        });
    }
    // Files with nothing but Ingresses say nothing about what is behind them.
    let bare = from_files && objects.services.is_empty();
    for problem in problems {
        if bare && problem.reason == "Backend" {
            continue;
        }
        let found = reviewed.entry((problem.kind, problem.object.clone())).or_default();
        let told = found.iter().any(|it| problem.text.contains(&it.text) && !it.text.is_empty());
        if !told {
            found.push(Finding::problem(problem));
        }
    }
    reviewed.into_iter().map(|((kind, name), findings)| Reviewed { kind, name, findings }).collect()
}

fn ingress_of(problem: &Problem) -> Option<&ObjectName> {
    (problem.kind == Kind::Ingress).then_some(&problem.object)
}

/// Why paths answer 503, by their Ingress.
fn refused(plan: &Plan) -> BTreeMap<&ObjectName, BTreeSet<&str>> {
    let mut refused: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for route in plan.hosts.values().flat_map(|it| it.paths.values()) {
        if let Target::Refused(text) = &route.target {
            refused.entry(&route.ingress).or_default().insert(&**text);
        }
    }
    refused
}

impl Finding {
    fn judged(it: &Judged<'_>, kind: &str) -> Self {
        let Judged { name, value, verdict, text } = it;
        let shown = value.lines().next().unwrap_or_default();
        Self {
            what: format!("{name}: {shown}"),
            verdict: *verdict,
            text: text.clone(),
            link: (!text.is_empty()).then(|| format!("{REFERENCE}#{kind}-{name}")),
        }
    }

    fn problem(problem: Problem) -> Self {
        let verdict = if problem.refuses() { Verdict::Refused } else { Verdict::Differs };
        Self { what: String::new(), verdict, text: problem.text, link: None }
    }
}

fn text(review: &[Reviewed]) -> String {
    let mut out = String::new();
    let mut counts =
        BTreeMap::from([(Verdict::Works, 0), (Verdict::Differs, 0), (Verdict::Refused, 0)]);
    for it in review {
        let verdict = it.verdict();
        *counts.entry(verdict).or_default() += 1;
        let _ = writeln!(out, "{} {}: {verdict}", it.kind, it.name);
        for finding in &it.findings {
            let parts = [finding.what.as_str(), finding.text.as_str()];
            let parts: Vec<_> = parts.into_iter().filter(|it| !it.is_empty()).collect();
            let link = finding.link.as_ref().map(|it| format!(" ({it})")).unwrap_or_default();
            let _ = writeln!(out, "  {:<8} {}{link}", finding.verdict, parts.join(": "));
        }
    }
    let [works, differs, refused] =
        [Verdict::Works, Verdict::Differs, Verdict::Refused].map(|it| counts[&it]);
    let all = review.len();
    let _ = writeln!(
        out,
        "{all} objects: {works} work, {differs} differ, {refused} have something refused"
    );
    out
}

fn in_json(review: &[Reviewed]) -> serde_json::Value {
    let objects = review.iter().map(|it| {
        let findings = it.findings.iter().map(|it| {
            json!({
                "what": it.what,
                "verdict": it.verdict.to_string(),
                "text": it.text,
                "link": it.link,
            })
        });
        json!({
            "kind": it.kind.to_string(),
            "namespace": &*it.name.namespace,
            "name": &*it.name.name,
            "verdict": it.verdict().to_string(),
            "findings": findings.collect::<Vec<_>>(),
        })
    });
    json!(objects.collect::<Vec<_>>())
}
