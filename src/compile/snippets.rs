//! Snippets → what they come to for each route.

use std::collections::HashMap;
use std::sync::Arc;

use super::routes::{Ours, hosts_of};
use crate::model::host::HostPattern;
use crate::model::plan::Plan;
use crate::model::problem::Problem;
use crate::model::snippet::{Directive, Translated};

/// Puts the snippet of its host, which the oldest Ingress that has one decides, and that of its own Ingress
/// on each route.
pub(super) fn add(ours: &[Ours<'_>], plan: &mut Plan, problems: &mut Vec<Problem>) {
    let mut servers: HashMap<HostPattern, &[Directive]> = HashMap::new();
    for it in ours {
        if let Some(snippets) = &it.options.snippets
            && !snippets.server.is_empty()
        {
            for host in hosts_of(it.ingress) {
                // Settings of a whole host are its namespace's.
                if let Some(known) = plan.hosts.get(&host)
                    && known.owner.namespace != it.name.namespace
                {
                    let text = format!(
                        "its server-snippet is not for {host}: {} has the host",
                        known.owner
                    );
                    problems.push(Problem::ingress(it.name, "HostTaken", text));
                    continue;
                }
                servers.entry(host).or_insert(&snippets.server);
            }
        }
    }
    for (host, it) in &mut plan.hosts {
        let server = servers.get(host).copied().unwrap_or_default();
        for route in it.paths.values_mut() {
            let own = route.options.snippets.as_ref().map_or(&[][..], |it| &it.location);
            if server.is_empty() && own.is_empty() {
                continue;
            }
            let translated = Translated::new(server, own);
            Arc::make_mut(route).snippet = Some(Arc::new(translated));
        }
    }
}
