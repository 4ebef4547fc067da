//! Annotations and settings about answers → what is done to them, with everything looked up.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::Policy;
use super::objects::{ConfigMap, Objects};
use super::routes::Ours;
use crate::model::answering::{Answering, Answers, Field, Replacement, field_name, field_value};
use crate::model::host::HostPattern;
use crate::model::name::{Kind, ObjectName};
use crate::model::options::Options;
use crate::model::plan::{Backend, BackendId, Plan, Route, Target};
use crate::model::problem::Problem;
use crate::model::settings::Settings;

/// Looks up the ConfigMaps that settings name. A field that cannot be set is left out.
pub(super) fn look_up(
    settings: &mut Settings,
    objects: &Objects,
    policy: &Policy,
    plan: &mut Plan,
    problems: &mut Vec<Problem>,
) {
    let Some(own) = &policy.config_map else { return };
    let fields = &mut settings.fields;
    for (key, named, found) in [
        ("add-headers", &fields.add_headers, &mut fields.added),
        ("proxy-set-headers", &fields.set_headers, &mut fields.sent),
    ] {
        let Some(name) = named else { continue };
        plan.unlisted_maps.insert(name.clone());
        let mut report = |object: &ObjectName, text| {
            let (kind, object) = (Kind::ConfigMap, object.clone());
            problems.push(Problem { kind, object, reason: "BadSetting", text });
        };
        let Some(map) = objects.config_maps.get(name) else {
            report(
                own,
                format!(
                    "{key}: ConfigMap {name} is not there or may not be read: no header fields are set"
                ),
            );
            continue;
        };
        for (entry, value) in &map.data {
            match Field::parse(entry, value) {
                Ok(field) => found.push(field),
                Err(why) => report(name, format!("entry {entry} {why}: it is left out ({key})")),
            }
        }
    }
    let errors = settings.options.answering.as_ref().and_then(|it| it.errors.as_ref());
    if errors.is_some() && policy.default_backend.is_none() {
        problems.push(Problem {
            kind: Kind::ConfigMap,
            object: own.clone(),
            reason: "DefaultBackend",
            text:
                "custom-http-errors: without --default-backend-service nobody answers for them but \
                   the default-backend of an Ingress"
                    .to_owned(),
        });
    }
}

/// Gives each route what is done to its answers. Where that may not be, the route answers 503.
pub(super) fn add(
    ours: &[Ours<'_>],
    objects: &Objects,
    policy: &Policy,
    plan: &mut Plan,
    problems: &mut Vec<Problem>,
) {
    let common = Options { answering: None, copies: None, ..plan.settings.options.clone() };
    let common = Arc::new(common);
    let crosses = plan.settings.access.cross_namespace;
    let mut known = HashMap::new();
    for it in ours {
        let Some(wanted) = &it.options.answering else { continue };
        let usual = plan.settings.options.answering.as_deref();
        let mut report = |reason, text| problems.push(Problem::ingress(it.name, reason, text));
        let answers = answers(it.name, wanted, &common, objects, &mut report);
        if let Some(map) = config_map(it.name, wanted, crosses) {
            plan.unlisted_maps.insert(map);
        }
        let headers =
            custom_headers(it.name, wanted, objects, &plan.settings.fields.allowed, crosses);
        if let Err(why) = &headers {
            let text = format!("{why}: the paths of this Ingress answer 503");
            report("CustomHeaders", text);
        }
        let own = wanted.errors.is_some() && usual.and_then(|it| it.errors.as_ref()).is_none();
        if own && answers.default.is_none() && policy.default_backend.is_none() {
            let text = "custom-http-errors: there is no default backend, neither by annotation nor by \
                        --default-backend-service: errors are answered as they are";
            report("DefaultBackend", text.to_owned());
        }
        known.insert(
            it.name,
            headers.map(|headers| Arc::new(Answers { headers: headers.into(), ..answers })),
        );
    }
    if known.is_empty() {
        return;
    }
    for route in plan.hosts.values_mut().flat_map(|it| it.paths.values_mut()) {
        let Some(found) = known.get(&route.ingress) else { continue };
        match found {
            Ok(answers) if **answers == Answers::default() => {}
            Ok(answers) => Arc::make_mut(route).answers = Some(answers.clone()),
            Err(_) if matches!(route.target, Target::Refused(_)) => {}
            Err(why) => Arc::make_mut(route).target = Target::Refused(why.as_str().into()),
        }
    }
}

fn answers(
    ingress: &ObjectName,
    wanted: &Answering,
    common: &Arc<Options>,
    objects: &Objects,
    report: &mut impl FnMut(&'static str, String),
) -> Answers {
    for unread in wanted.cors.unread.iter().filter(|_| wanted.cors.on) {
        let text = format!(
            "cors-allow-origin: {unread:?} is no origin such as https://a.example.org or \
             https://*.example.org: it is left out"
        );
        report("BadAnnotation", text);
    }
    let redirect = match (&wanted.redirect_from, &wanted.redirect_to) {
        (Some(from), Some(to)) => Some(Replacement { from: from.clone(), to: to.clone() }),
        _ => None,
    };
    Answers {
        cors: wanted.cors.on.then(|| wanted.cors.clone()),
        headers: Box::default(),
        errors: wanted.errors.clone(),
        leaves_errors: wanted.leaves_errors && wanted.errors.is_some(),
        default: default_backend(ingress, wanted, common, objects, report),
        stands_in_for: None,
        cookie_domain: wanted.cookie_domain.clone(),
        cookie_path: wanted.cookie_path.clone(),
        redirect,
        connection: wanted.connection.clone(),
    }
}

/// The route of `default-backend`; as in ingress-nginx one that cannot be is as good as none.
fn default_backend(
    ingress: &ObjectName,
    wanted: &Answering,
    common: &Arc<Options>,
    objects: &Objects,
    report: &mut impl FnMut(&'static str, String),
) -> Option<Arc<Route>> {
    let name = wanted.default_backend.as_ref()?;
    let service = ObjectName::new(ingress.namespace.clone(), &**name);
    let Some(port) = objects.services.get(&service).and_then(|it| it.ports.first()) else {
        let text =
            format!("default-backend: Service {service} is not there or has no port: ignored");
        report("DefaultBackend", text);
        return None;
    };
    let id = BackendId { service, port: port.port.to_string().into() };
    let (host, target) = (HostPattern::Any, Target::Backend(id));
    Some(Arc::new(Route::new(ingress.clone(), &host, "/", target, common.clone())))
}

/// The ConfigMap of `custom-headers`, where it may be read.
fn config_map(ingress: &ObjectName, wanted: &Answering, crosses: bool) -> Option<ObjectName> {
    let text = wanted.custom_headers.as_ref()?;
    let name = text.parse();
    let name = name.unwrap_or_else(|_| ObjectName::new(ingress.namespace.clone(), &**text));
    (crosses || name.namespace == ingress.namespace).then_some(name)
}

/// What `custom-headers` sets: all of it, or nothing is served.
fn custom_headers(
    ingress: &ObjectName,
    wanted: &Answering,
    objects: &Objects,
    allowed: &[HeaderName],
    crosses: bool,
) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let Some(text) = &wanted.custom_headers else { return Ok(Vec::new()) };
    let Some(name) = config_map(ingress, wanted, crosses) else {
        return Err(format!("custom-headers: ConfigMap {text} is in another namespace"));
    };
    let Some(ConfigMap { data }) = objects.config_maps.get(&name).map(|it| &**it) else {
        return Err(format!("custom-headers: ConfigMap {name} is not there or may not be read"));
    };
    let fail = |entry: &str, why: &str| format!("custom-headers: entry {entry} of {name} {why}");
    let mut headers = Vec::new();
    for (entry, value) in data {
        let field = field_name(entry).map_err(|why| fail(entry, &why))?;
        if !allowed.contains(&field) {
            return Err(fail(entry, "is not listed in global-allowed-response-headers"));
        }
        // Dollars stand for themselves, as in ingress-nginx.
        let value = field_value(value.trim()).map_err(|why| fail(entry, &why))?;
        headers.push((field, value));
    }
    Ok(headers)
}

/// Leads routes whose backend has nobody to answer to the default backend of their Ingress, if that has.
pub(super) fn stand_in(plan: &mut Plan, problems: &mut [Problem]) {
    let Plan { hosts, backends, .. } = plan;
    let answers = |backends: &BTreeMap<BackendId, Backend>, id: &BackendId| {
        backends.get(id).is_some_and(|it| !it.addresses.is_empty() || it.external.is_some())
    };
    for route in hosts.values_mut().flat_map(|it| it.paths.values_mut()) {
        let Some(found) = &route.answers else { continue };
        let Some(Target::Backend(default)) = found.default.as_ref().map(|it| &it.target) else {
            continue;
        };
        let Target::Backend(own) = &route.target else { continue };
        if answers(backends, own) || !answers(backends, default) {
            continue;
        }
        // What was said of the backend is only half the truth now.
        let service = format!("Service {}", own.service);
        for it in problems.iter_mut().filter(|it| it.object == route.ingress) {
            if let Some(rest) = it.text.strip_prefix(&service)
                && let Some(why) = rest.strip_suffix("its paths answer 503")
            {
                it.text = format!("{service}{why}its default-backend answers");
            }
        }
        let target = Target::Backend(default.clone());
        let found = Answers { stands_in_for: Some(own.clone()), ..Answers::clone(found) };
        let route = Arc::make_mut(route);
        route.target = target;
        route.answers = Some(Arc::new(found));
    }
}
