//! `auth-tls-*` and `ssl-passthrough` → what each host asks of its clients.
//!
//! As in ingress-nginx this holds for a host as a whole, and the oldest Ingress that says anything decides.
//! It never fails open: what cannot be read, is not there or contradicts closes paths.

mod guard;
mod said;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Policy;
use super::objects::Objects;
use super::routes::Ours;
use crate::model::client_tls::{Guard, HostTls};
use crate::model::host::HostPattern;
use crate::model::name::ObjectName;
use crate::model::path::PathPattern;
use crate::model::plan::{Host, Plan, Route, Target};
use crate::model::problem::Problem;
use said::{Found, Saying, look_up};

/// Decides for each host. Costs nothing where no Ingress says anything.
pub(super) fn add(
    ours: &[Ours<'_>],
    objects: &Objects,
    policy: &Policy,
    plan: &mut Plan,
    problems: &mut Vec<Problem>,
) {
    let saying: Vec<Saying<'_>> = ours.iter().filter_map(Saying::of).collect();
    if saying.is_empty() {
        return;
    }
    let mut found: HashMap<&ObjectName, Found> = HashMap::new();
    for it in &saying {
        if let Some(secret) = it.secret() {
            // Named ones are read again and again, as long as they are named.
            plan.unlisted.insert(secret);
        }
        found.insert(it.name, look_up(it, objects));
    }
    for (pattern, host) in &mut plan.hosts {
        // Also those that only have a path there.
        let present: HashSet<&ObjectName> = host.paths.values().map(|it| &it.ingress).collect();
        let here = |it: &&Saying<'_>| it.hosts.contains(pattern) || present.contains(it.name);
        let here: Vec<_> = saying.iter().filter(here).collect();
        if here.is_empty() {
            continue;
        }
        let Outcome { tls, told, refused } = decide(pattern, host, &here, &found, policy);
        for (name, text) in &refused {
            refuse(host, name, text);
        }
        let told = told.into_iter().chain(refused);
        problems.extend(told.map(|(name, text)| Problem::ingress(&name, "ClientTls", text)));
        let Some(tls) = tls.map(Arc::new) else { continue };
        for route in host.paths.values_mut() {
            Arc::make_mut(route).client_tls = Some(tls.clone());
        }
    }
}

/// Closes hosts whose TLS is to be handed on while somebody has to be asked for a password, or a judge for his
/// leave: nobody can in TLS that is not read here. To be called when the guards are there.
pub(super) fn close_guarded(plan: &mut Plan, problems: &mut Vec<Problem>) {
    for (pattern, host) in &mut plan.hosts {
        if host.client_tls() != Some(&HostTls::Through) {
            continue;
        }
        let owner = host.owner.clone();
        let asks =
            host.paths.values().filter(|it| it.ingress == owner).any(|it| {
                it.guard.as_ref().is_some_and(|it| it.basic.is_some() || it.judge.is_some())
            });
        if !asks {
            continue;
        }
        for route in host.paths.values_mut() {
            Arc::make_mut(route).client_tls = None;
        }
        let text = format!(
            "ssl-passthrough: TLS of {pattern} cannot be handed on where passwords or an external judge are \
             asked for: its paths answer 503"
        );
        refuse(host, &owner, &text);
        problems.push(Problem::ingress(&owner, "ClientTls", text));
    }
}

/// What is decided for a host.
#[derive(Default)]
struct Outcome {
    /// For all of it.
    tls: Option<HostTls>,
    /// What Ingresses are told of that.
    told: Vec<(ObjectName, String)>,
    /// Ingresses whose paths answer 503, and why.
    refused: Vec<(ObjectName, String)>,
}

impl Outcome {
    fn tell(&mut self, saying: &Saying<'_>, text: String) {
        self.told.push((saying.name.clone(), text));
    }

    fn refuse(&mut self, saying: &Saying<'_>, why: &str) {
        self.refused.push((saying.name.clone(), format!("{why}: its paths answer 503")));
    }
}

/// `here` is what Ingresses with this host say, the oldest first.
fn decide(
    pattern: &HostPattern,
    host: &Host,
    here: &[&Saying<'_>],
    found: &HashMap<&ObjectName, Found>,
    policy: &Policy,
) -> Outcome {
    let mut outcome = Outcome::default();
    let through = passes_through(pattern, host, here, policy, &mut outcome);
    // The namespace that has the host speaks for it; others may only agree.
    let is_own = |it: &Saying<'_>| it.name.namespace == host.owner.namespace;
    let first = here.iter().filter(|it| is_own(it));
    let first = { first }.find(|it| it.words.secret.is_some() || it.words.unread);
    let mut asked = None;
    if let Some(first) = first {
        match &found[first.name] {
            Found::Guard(guard) => asked = Some((*first, guard.clone())),
            Found::Broken(why) => {
                outcome.tls = Some(HostTls::Denied);
                outcome.tell(first, format!("{why}: all of {pattern} answers 403"));
            }
            Found::Nothing => {}
        }
    }
    let rest = here.iter().filter(|it| it.words.asks());
    for it in rest.filter(|it| first.is_none_or(|first| first.name != it.name)) {
        match &mut asked {
            Some((first, guard)) => {
                join(guard, first, it, &found[it.name], is_own(it), &mut outcome);
            }
            // Where everything answers 403 there is nothing left to close.
            None if outcome.tls.is_some() => {}
            None => match &found[it.name] {
                Found::Broken(why) => outcome.refuse(it, why),
                Found::Nothing => outcome.refuse(it, "auth-tls-... needs auth-tls-secret"),
                Found::Guard(_) => {
                    let why = format!(
                        "auth-tls-...: {pattern} belongs to {}, which asks for none",
                        host.owner
                    );
                    outcome.refuse(it, &why);
                }
            },
        }
    }
    match (through, asked) {
        (Some(owner), Some(_)) => {
            outcome.tls = Some(HostTls::Denied);
            let text = "auth-tls-... and ssl-passthrough contradict each other";
            outcome.tell(owner, format!("{text}: all of {pattern} answers 403"));
        }
        (Some(_), None) if outcome.tls.is_none() => outcome.tls = Some(HostTls::Through),
        (None, Some((_, guard))) => outcome.tls = Some(HostTls::Asks(guard)),
        _ => {}
    }
    outcome
}

/// Brings what one more Ingress says to what is asked for already: of two the strictest holds. Where there is
/// none, because they trust different authorities, the paths of that Ingress are closed.
fn join(
    guard: &mut Guard,
    first: &Saying<'_>,
    it: &Saying<'_>,
    found: &Found,
    own: bool,
    outcome: &mut Outcome,
) {
    let before = guard.clone();
    let joined = match found {
        Found::Broken(why) => return outcome.refuse(it, why),
        Found::Nothing => own && guard.tighten(it.words),
        Found::Guard(theirs) => guard.join(theirs),
    };
    // Another namespace closes nothing for the host's own.
    if !joined || (!own && *guard != before) {
        *guard = before;
        let why = format!("auth-tls-... cannot hold beside that of {}", first.name);
        return outcome.refuse(it, &why);
    }
    let differs = match found {
        Found::Guard(theirs) => *theirs != before,
        _ => *guard != before,
    };
    if differs {
        let text = "auth-tls-... differs on one host from that of";
        outcome.tell(it, format!("{text} {}: the strictest of both holds", first.name));
    }
}

/// Who has TLS of a host handed on: its owner decides, and its path `/` says where to.
fn passes_through<'a, 'b>(
    pattern: &HostPattern,
    host: &Host,
    here: &[&'b Saying<'a>],
    policy: &Policy,
    outcome: &mut Outcome,
) -> Option<&'b Saying<'a>> {
    let mut through = None;
    for it in here.iter().filter(|it| it.words.passthrough) {
        let root = host.paths.get(&PathPattern::Prefix("/".into()));
        let leads = root.is_some_and(|it| matches!(it.target, Target::Backend(_)));
        if !policy.passthrough {
            outcome.refuse(it, "ssl-passthrough needs --enable-ssl-passthrough");
        } else if *it.name != host.owner {
            let why =
                format!("ssl-passthrough: {pattern} belongs to {}, which decides", host.owner);
            outcome.refuse(it, &why);
        } else if *pattern == HostPattern::Any {
            outcome.refuse(it, "ssl-passthrough needs a host");
        } else if !leads {
            let why = format!("ssl-passthrough: path / of {pattern} leads to no Service");
            outcome.refuse(it, &why);
        } else {
            through = Some(*it);
        }
    }
    through
}

fn refuse(host: &mut Host, ingress: &ObjectName, text: &str) {
    for route in host.paths.values_mut().filter(|it| it.ingress == *ingress) {
        let route: &mut Route = Arc::make_mut(route);
        if !matches!(route.target, Target::Refused(_)) {
            route.target = Target::Refused(text.into());
        }
    }
}
