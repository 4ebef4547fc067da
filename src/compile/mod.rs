//! Objects → plan: pure functions.
//!
//! Floor 1. No clock, no I/O, no async, no error: whatever is wrong with an object becomes a
//! [`Problem`] and a plan without it. Equal objects give equal plans, in whatever order they arrived.

mod access;
pub mod annotation;
mod answering;
mod backends;
mod certificates;
mod class;
mod client_tls;
pub mod config;
mod copies;
pub mod locations;
mod names;
pub mod objects;
mod routes;
mod sharing;
mod snippets;
mod streams;
mod upstreams;

use std::collections::BTreeSet;

use crate::model::name::{Kind, ObjectName};
use crate::model::plan::Plan;
use crate::model::problem::Problem;
use crate::model::stream::Transport;

use objects::Objects;
use routes::Ours;

/// What the flags say about reading objects.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of ingress-nginx")]
pub struct Policy {
    /// `--ingress-class`
    pub ingress_class: String,
    /// `--controller-class`
    pub controller_class: String,
    /// `--ingress-class-by-name`
    pub class_by_name: bool,
    /// `--watch-ingress-without-class`
    pub watch_without_class: bool,
    /// `--annotations-prefix`
    pub prefix: String,
    /// `--legacy-annotations`
    pub legacy_annotations: bool,
    /// `--configmap`
    pub config_map: Option<ObjectName>,
    /// `--tcp-services-configmap`
    pub tcp_services: Option<ObjectName>,
    /// `--udp-services-configmap`
    pub udp_services: Option<ObjectName>,
    /// TCP ports that we listen on ourselves.
    pub own_ports: BTreeSet<u16>,
    /// `--default-backend-service`
    pub default_backend: Option<ObjectName>,
    /// `--default-ssl-certificate`
    pub default_certificate: Option<ObjectName>,
    /// `--disable-catch-all`
    pub no_catch_all: bool,
    /// `--disable-svc-external-name`
    pub no_external_name: bool,
    /// `--enable-ssl-passthrough`
    pub passthrough: bool,
    /// Our zone, with `--enable-topology-aware-routing`.
    pub zone: Option<Box<str>>,
    /// `--host-ownership=namespace`
    pub strict_hosts: bool,
    /// `--issuer`
    pub issuer: IssuerKind,
    /// Where the account's Secret is.
    pub account: ObjectName,
    /// `--adopt-cert-manager-annotations`
    pub adopt_cert_manager: bool,
    /// `--translate-snippets`
    pub translate_snippets: bool,
    /// Whether judges, mirrors and hosts of `ExternalName` Services may be
    /// [near](crate::model::network::is_near): those that files name may, whose owner is who runs us; those of
    /// a cluster's objects may not.
    pub near: bool,
    /// Most names that the CA puts into one certificate.
    pub most_names: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            ingress_class: "nginx".to_owned(),
            controller_class: "k8s.io/ingress-nginx".to_owned(),
            class_by_name: false,
            watch_without_class: false,
            prefix: "nginx.ingress.kubernetes.io".to_owned(),
            legacy_annotations: true,
            config_map: None,
            tcp_services: None,
            udp_services: None,
            own_ports: BTreeSet::from([80, 443, 10254]),
            default_backend: None,
            default_certificate: None,
            no_catch_all: false,
            no_external_name: false,
            passthrough: false,
            zone: None,
            strict_hosts: false,
            issuer: IssuerKind::None,
            account: ObjectName::new("lockgate", "lockgate-acme-account"),
            adopt_cert_manager: false,
            translate_snippets: false,
            near: false,
            most_names: 100,
        }
    }
}

impl Policy {
    /// The ConfigMap that lists the ports of a transport.
    pub fn streams(&self, transport: Transport) -> Option<&ObjectName> {
        match transport {
            Transport::Tcp => self.tcp_services.as_ref(),
            Transport::Udp => self.udp_services.as_ref(),
        }
    }
}

/// `--issuer`
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IssuerKind {
    /// A CA that speaks RFC 8555.
    Acme,
    /// The small CA inside this program.
    Local,
    /// Nobody: certificates come from elsewhere.
    None,
}

/// Turns the objects into a plan, and says what was wrong with them.
///
/// Total: a bad object costs its owner a [`Problem`], never another team its route.
/// Deterministic: equal objects give equal plans, whatever order they arrived in.
pub fn compile(objects: &Objects, policy: &Policy) -> (Plan, Vec<Problem>) {
    let mut plan = Plan { near: policy.near, ..Plan::default() };
    let mut problems = objects.problems.clone();
    let refused = |kind: &Kind, what: &str| Problem {
        kind: *kind,
        object: ObjectName::default(),
        reason: "Unreadable",
        text: format!("{kind} objects may {what}"),
    };
    let never = "not be listed: what needs them does not work until they may";
    problems.extend(objects.unreadable.iter().map(|kind| refused(kind, never)));
    let no_longer = "no longer be listed: what was seen before holds until they may";
    problems.extend(objects.stale.iter().map(|kind| refused(kind, no_longer)));
    let mut settings = config::settings(objects, policy, &mut problems);
    answering::look_up(&mut settings, objects, policy, &mut plan, &mut problems);
    let read = routes::read(objects, policy, &settings, &mut problems);
    plan.ours = read.iter().map(|it| it.name.clone()).collect();
    let (canaries, ours): (Vec<_>, Vec<_>) = read.into_iter().partition(Ours::is_canary);
    plan.settings = settings.into();
    routes::add(&ours, policy, &mut plan, &mut problems);
    certificates::add(&ours, objects, policy, &mut plan, &mut problems);
    names::add(&ours, policy, &mut plan, &mut problems);
    routes::decide_redirects(&mut plan);
    upstreams::add(&ours, objects, &mut plan, &mut problems);

    client_tls::add(&ours, objects, policy, &mut plan, &mut problems);

    access::add(objects, policy, &mut plan, &mut problems);
    client_tls::close_guarded(&mut plan, &mut problems);

    snippets::add(&ours, &mut plan, &mut problems);

    answering::add(&ours, objects, policy, &mut plan, &mut problems);
    copies::add(&ours, &mut plan, &mut problems);
    copies::tell_untold(&ours, &plan, &mut problems);

    let shares = sharing::shares(&ours, &canaries, &plan, &mut problems);
    backends::add(&shares, objects, policy, &mut plan, &mut problems);
    answering::stand_in(&mut plan, &mut problems);
    streams::add(objects, policy, &mut plan, &mut problems);
    // A problem of a whole kind has no name; one of an Ingress that is not there has no reader.
    problems.retain(|it| {
        it.kind != Kind::Ingress
            || it.object.name.is_empty()
            || objects.ingresses.contains_key(&it.object)
    });
    problems.sort_unstable();
    problems.dedup();
    (plan, problems)
}
