//! Access annotations → the guard of each route.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use http::HeaderName;

use super::Policy;
use super::objects::Objects;
use crate::model::access::{Access, External, Shared, is_settable};
use crate::model::guard::{Basic, Cache, Guard, Judge};
use crate::model::htpasswd::Users;
use crate::model::name::{Kind, ObjectName};
use crate::model::network::{NEAR, names_near};
use crate::model::options::Options;
use crate::model::phrase::{Phrase, Word};
use crate::model::plan::{Plan, Route, Target};
use crate::model::problem::Problem;

/// What a guard is made for: an Ingress, and whether its path asks nobody for a password.
type Key = (ObjectName, bool);

/// Looks up who may ask for each route. Where that cannot be had, the route answers 503: nobody gets what he
/// would have had to ask somebody for.
pub(super) fn add(
    objects: &Objects,
    policy: &Policy,
    plan: &mut Plan,
    problems: &mut Vec<Problem>,
) {
    let settings = plan.settings.clone();
    let shared = &settings.access;
    let global = judge(&shared.judge, Vec::new(), &shared.judge);
    if let Some(name) = &policy.config_map
        && let Some(text) = near("global-auth-url", &shared.judge, policy)
    {
        let (kind, object, reason) = (Kind::ConfigMap, name.clone(), "ForbiddenAddress");
        problems.push(Problem { kind, object, reason, text });
    }
    // Ingresses have many paths.
    let mut known: HashMap<Key, Result<Option<Arc<Guard>>, Box<str>>> = HashMap::new();
    let Plan { hosts, unlisted, unlisted_maps, .. } = plan;
    for route in hosts.values_mut().flat_map(|it| it.paths.values_mut()) {
        let Options { access, .. } = &*route.options;
        if (access.is_none() && shared.judge.url.is_none())
            || matches!(route.target, Target::Refused(_))
        {
            continue;
        }
        let open = shared.open.iter().any(|it| route.path.starts_with(&**it));
        let found = known.entry((route.ingress.clone(), open)).or_insert_with(|| {
            let mut lookup = LookUp {
                objects,
                shared,
                global: &global,
                ingress: &route.ingress,
                unlisted: &mut *unlisted,
                unlisted_maps: &mut *unlisted_maps,
                snippet: route.options.snippets.as_ref().map_or(&[], |it| &it.auth),
                notes: Vec::new(),
            };
            let unset = Access::default();
            let made = lookup.guard(access.as_deref().unwrap_or(&unset), open);
            let notes = std::mem::take(&mut lookup.notes);
            if let Some(text) =
                access.as_deref().and_then(|it| near("annotation auth-url", &it.judge, policy))
            {
                problems.push(Problem::ingress(&route.ingress, "ForbiddenAddress", text));
            }
            problems
                .extend(notes.into_iter().map(|it| Problem::ingress(&route.ingress, "Access", it)));
            made.map(|it| (it != Guard::default()).then(|| Arc::new(it))).map_err(|why| {
                let text = format!("{why}: the paths of this Ingress answer 503");
                problems.push(Problem::ingress(&route.ingress, "Access", text.clone()));
                text.into()
            })
        });
        let route: &mut Route = match found {
            Ok(None) => continue,
            _ => Arc::make_mut(route),
        };
        match found {
            Ok(guard) => route.guard.clone_from(guard),
            Err(why) => route.target = Target::Refused(why.clone()),
        }
    }
}

/// Why a judge is never asked, whom a cluster's objects may not name. Whoever is to be judged by it gets 500:
/// the guard stays, and the proxy looks at each address that the judge has.
fn near(name: &str, judge: &External, policy: &Policy) -> Option<String> {
    let host = judge.url.as_ref()?.host()?;
    (!policy.near && names_near(&host))
        .then(|| format!("{name}: {host} {NEAR}: what it would be asked about is answered 500"))
}

/// Looks up what one Ingress names.
struct LookUp<'a> {
    objects: &'a Objects,
    shared: &'a Shared,
    /// The judge of all that have none.
    global: &'a Result<Option<Arc<Judge>>, String>,
    ingress: &'a ObjectName,
    unlisted: &'a mut BTreeSet<ObjectName>,
    unlisted_maps: &'a mut BTreeSet<ObjectName>,
    /// Fields of its `auth-snippet`.
    snippet: &'a [(HeaderName, Phrase)],
    /// What its owner should know, though it is served.
    notes: Vec<String>,
}

impl LookUp<'_> {
    fn guard(&mut self, access: &Access, open: bool) -> Result<Guard, String> {
        let mut guard = Guard {
            deny: access.deny.clone(),
            allow: access.allow.clone().or_else(|| access.allow_older.clone()),
            any: access.any,
            ..Guard::default()
        };
        let basic = self.basic(access)?;
        let judge = self.judge(access)?;
        if !open {
            (guard.basic, guard.judge) = (basic, judge);
        }
        // With nobody to ask it makes no difference.
        let checks = guard.deny.is_some() || guard.allow.is_some();
        guard.any &= checks || guard.basic.is_some() || guard.judge.is_some();
        Ok(guard)
    }

    fn basic(&mut self, access: &Access) -> Result<Option<Basic>, String> {
        let Access { basic, secret, map, realm, .. } = access;
        if !basic {
            return match (secret, map) {
                (None, None) => Ok(None),
                _ => Err("annotation auth-secret says nothing without auth-type: basic".to_owned()),
            };
        }
        let name = secret.as_deref().ok_or("annotation auth-type needs auth-secret")?;
        let name = self.named("auth-secret", name)?;
        // It need not be of the type that is listed, and may change.
        self.unlisted.insert(name.clone());
        let found = self.objects.secrets.get(&name);
        let found = found.ok_or_else(|| format!("auth-secret: Secret {name} is not there"))?;
        let users = if *map == Some(true) { &found.users } else { &found.htpasswd };
        let users = users.clone().ok_or_else(|| {
            format!(
                "auth-secret: Secret {name} holds no entry auth (auth-secret-type is auth-file)"
            )
        })?;
        self.note_bad(&name, &users);
        let challenge = Basic::challenge(realm.as_deref().unwrap_or_default());
        let challenge = challenge.ok_or("annotation auth-realm fits no header field")?;
        Ok(Some(Basic { challenge, users }))
    }

    fn note_bad(&mut self, name: &ObjectName, users: &Users) {
        /// More would not help.
        const MOST: usize = 3;
        for why in users.bad.iter().take(MOST) {
            self.notes.push(format!("auth-secret: Secret {name}: {why}: nobody is let in by it"));
        }
        if users.bad.len() > MOST {
            let rest = users.bad.len() - MOST;
            self.notes.push(format!("auth-secret: Secret {name}: so it is with {rest} more"));
        } else if users.is_empty() && users.bad.is_empty() {
            self.notes.push(format!("auth-secret: Secret {name} names no user: nobody is let in"));
        }
    }

    /// The Ingress's own judge, else everybody's.
    fn judge(&mut self, access: &Access) -> Result<Option<Arc<Judge>>, String> {
        let (said, global) = (&access.judge, &self.shared.judge);
        if said.url.is_some() {
            let mut headers = match &said.set_headers {
                None => Vec::new(),
                Some(name) => self.headers(name)?,
            };
            headers.extend(self.snippet.iter().cloned());
            return judge(said, headers, global);
        }
        if *said != External::default() {
            let text = "annotations auth-... of an external judge have no effect without auth-url";
            self.notes.push(text.to_owned());
        }
        if access.no_global {
            Ok(None)
        } else if self.snippet.is_empty() {
            self.global.clone()
        } else {
            judge(global, self.snippet.to_vec(), global)
        }
    }

    /// The fields in the ConfigMap that `auth-proxy-set-headers` names.
    fn headers(&mut self, name: &str) -> Result<Vec<(HeaderName, Phrase)>, String> {
        let name = self.named("auth-proxy-set-headers", name)?;
        self.unlisted_maps.insert(name.clone());
        let found = self.objects.config_maps.get(&name);
        let found = found
            .ok_or_else(|| format!("auth-proxy-set-headers: ConfigMap {name} is not there"))?;
        let mut headers = Vec::new();
        for (field, value) in &found.data {
            let bad =
                |what: &str| format!("auth-proxy-set-headers: ConfigMap {name}: {field:?} {what}");
            let field: HeaderName = field.parse().map_err(|_| bad("is no name of a header"))?;
            // The judge may be told another host; it is still asked where it is.
            if !is_settable(&field) && field != http::header::HOST {
                return Err(bad("frames a request: it cannot be set"));
            }
            let value = Phrase::parse(value.trim())
                .map_err(|it| bad(&format!("has {it}, which is no variable that is known")))?;
            headers.push((field, value));
        }
        Ok(headers)
    }

    /// An object by its name, alone or behind its namespace.
    fn named(&self, annotation: &str, text: &str) -> Result<ObjectName, String> {
        let own = &self.ingress.namespace;
        let name = match text.parse::<ObjectName>() {
            Ok(name) => name,
            Err(_) if text.contains('/') => {
                return Err(format!("annotation {annotation}: {text:?} is no name of an object"));
            }
            Err(_) => ObjectName::new(own.clone(), text),
        };
        if name.namespace != *own && !self.shared.cross_namespace {
            return Err(format!("annotation {annotation}: {name} is in another namespace"));
        }
        Ok(name)
    }
}

/// A judge as it is described; what it does not say of cookies, everybody's does.
fn judge(
    said: &External,
    headers: Vec<(HeaderName, Phrase)>,
    global: &External,
) -> Result<Option<Arc<Judge>>, String> {
    let Some(url) = said.url.clone() else { return Ok(None) };
    let request_redirect = said.request_redirect.clone();
    let always_set_cookie = said.always_set_cookie.or(global.always_set_cookie);
    let cache = said.cache_key.clone();
    Ok(Some(Arc::new(Judge {
        url,
        method: said.method.clone(),
        signin: said.signin.as_deref().map(|it| signin(it, said)).transpose()?,
        response_headers: said.response_headers.clone(),
        request_redirect: request_redirect.unwrap_or_else(|| Phrase([Word::RequestUri].into())),
        headers,
        always_set_cookie: always_set_cookie.unwrap_or_default(),
        cache: cache.map(|key| Cache { key, times: said.cache_times.clone().unwrap_or_default() }),
    })))
}

/// Where people are sent that nobody knows: with the way back, unless that is in it already.
fn signin(text: &str, said: &External) -> Result<Phrase, String> {
    let param = said.signin_param.as_deref().unwrap_or("rd");
    let query = text.split_once('?').map(|(_, query)| query);
    let brings_back = query.is_some_and(|it| {
        let pairs = it.split('&').filter_map(|it| it.split_once('='));
        { pairs }.any(|(name, value)| name == param && !value.is_empty())
    });
    let whole = if brings_back {
        text.to_owned()
    } else {
        let mark = match query {
            None => "?",
            Some("") => "",
            Some(_) => "&",
        };
        format!("{text}{mark}{param}=$pass_access_scheme://$http_host$escaped_request_uri")
    };
    Phrase::parse(&whole).map_err(|it| format!("annotation auth-signin: {it} is not known"))
}
