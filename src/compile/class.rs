//! Which Ingresses are ours, and in which order they count.

use std::sync::Arc;

use super::Policy;
use super::objects::{Ingress, Objects};
use crate::model::name::{Kind, ObjectName};

/// The class annotation that came before `ingressClassName`.
const CLASS: &str = "kubernetes.io/ingress.class";

/// Our Ingresses, oldest first.
///
/// Of two created in the same second the one whose `namespace/name` sorts last counts as older, as in
/// ingress-nginx.
pub(super) fn ours<'a>(
    objects: &'a Objects,
    policy: &Policy,
) -> Vec<(&'a ObjectName, &'a Arc<Ingress>)> {
    let mut ours: Vec<_> =
        objects.ingresses.iter().filter(|(_, it)| is_ours(it, objects, policy)).collect();
    ours.sort_by(|(a, older), (b, younger)| {
        older.created.cmp(&younger.created).then_with(|| text(b).cmp(text(a)))
    });
    ours
}

/// `namespace/name`, whose order is not that of the two: a namespace may hold what is less than a slash.
fn text(name: &ObjectName) -> impl Iterator<Item = u8> {
    name.namespace.bytes().chain(*b"/").chain(name.name.bytes())
}

/// ingress-nginx's rule: the field decides where it is set, else the annotation, else
/// `--watch-ingress-without-class`. Where classes may not be read only the annotation works.
fn is_ours(ingress: &Ingress, objects: &Objects, policy: &Policy) -> bool {
    let readable = !objects.unreadable.contains(&Kind::IngressClass);
    if let Some(class) = ingress.class.as_ref().filter(|_| readable) {
        return is_our_class(class, objects, policy);
    }
    match ingress.annotations.get(CLASS) {
        Some(class) => class == policy.ingress_class,
        None => policy.watch_without_class,
    }
}

fn is_our_class(class: &str, objects: &Objects, policy: &Policy) -> bool {
    let name = ObjectName::new("", class);
    objects.classes.get(&name).is_some_and(|it| {
        *it.controller == *policy.controller_class
            || (policy.class_by_name && class == policy.ingress_class)
    })
}
