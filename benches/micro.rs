//! What a change of objects costs, and what a look-up does, by number of Ingresses.
//!
//! `cargo bench --bench micro`

use std::sync::Arc;

use divan::{Bencher, black_box};
use lockgate::certs::fake;
use lockgate::compile::objects::{
    Endpoint, Ingress, IngressClass, Objects, Path, Port, Rule, Service, ServicePort, Slice,
};
use lockgate::compile::{Policy, compile};
use lockgate::live::Live;
use lockgate::model::name::ObjectName;

fn main() {
    divan::main();
}

const SIZES: [usize; 3] = [10, 1_000, 10_000];

/// Ingresses with a host and two paths each, a Service and five endpoints behind each.
fn objects(count: usize) -> Objects {
    let mut objects = Objects::default();
    let class = IngressClass { controller: "k8s.io/ingress-nginx".into() };
    objects.classes.insert(ObjectName::new("", "nginx"), Arc::new(class));
    for number in 0..count {
        let name = ObjectName::new("shop", format!("web-{number}"));
        let backend = ServicePort { service: name.name.clone(), port: "80".into() };
        let path =
            |path: &str| Path { path: path.into(), exact: false, backend: Some(backend.clone()) };
        let rule = Rule {
            host: format!("h{number}.example.org").into(),
            paths: Some([path("/"), path("/api")].into()),
        };
        let ingress =
            Ingress { class: Some("nginx".into()), rules: [rule].into(), ..Ingress::default() };
        let port = Port { name: "http".into(), port: 80, target: "8080".into(), udp: false };
        let service = Service { ports: [port].into(), ..Service::default() };
        let endpoint = |it: u8| Endpoint {
            address: [10, 0, u8::try_from(number % 256).unwrap_or_default(), it].into(),
            ready: true,
            lingering: false,
        };
        let slice = Slice {
            service: name.name.clone(),
            ports: Some([("http".into(), 8080)].into()),
            endpoints: (1..=5).map(endpoint).collect(),
            ..Slice::default()
        };
        objects.ingresses.insert(name.clone(), Arc::new(ingress));
        objects.services.insert(name.clone(), Arc::new(service));
        objects.slices.insert(name, Arc::new(slice));
    }
    objects
}

fn live(count: usize) -> Live {
    let (plan, _) = compile(&objects(count), &Policy::default());
    let key = fake().expect("a certificate can be made");
    Live::next(Arc::new(plan), &Live::empty(key))
}

/// Objects → plan.
#[divan::bench(args = SIZES)]
fn compiling(bencher: Bencher<'_, '_>, count: usize) {
    let objects = objects(count);
    bencher.bench(|| compile(black_box(&objects), &Policy::default()));
}

/// Plan → what is served, after one that was much the same.
#[divan::bench(args = SIZES)]
fn swapping(bencher: Bencher<'_, '_>, count: usize) {
    let before = live(count);
    let plan = before.plan.clone();
    bencher.bench(|| Live::next(black_box(plan.clone()), &before));
}

/// Host and path → route.
#[divan::bench(args = SIZES)]
fn looking_up(bencher: Bencher<'_, '_>, count: usize) {
    let live = live(count);
    let host = format!("h{}.example.org", count / 2);
    bencher.bench(|| {
        let paths = live.table.host(black_box(&host));
        paths.and_then(|it| it.find(black_box("/api/v1/items/7")))
    });
}

/// One host with a rewritten path of each Ingress: what makes paths regular expressions.
fn rewriting(count: usize) -> Objects {
    let mut objects = objects(count);
    for (number, ingress) in objects.ingresses.values_mut().enumerate() {
        let ingress = Arc::make_mut(ingress);
        let rewrite = ("nginx.ingress.kubernetes.io/rewrite-target", "/$2");
        ingress.annotations = [rewrite].into();
        for rule in &mut ingress.rules {
            rule.host = "apps.example.org".into();
            for path in rule.paths.iter_mut().flatten() {
                path.path = format!("/app-{number}{}(/|$)(.*)", path.path).into();
            }
        }
    }
    objects
}

/// Objects → plan, where the expressions of Ingresses that did not change are there already.
#[divan::bench(args = [10, 100, 1_000])]
fn compiling_expressions(bencher: Bencher<'_, '_>, count: usize) {
    let objects = rewriting(count);
    compile(&objects, &Policy::default());
    bencher.bench(|| compile(black_box(&objects), &Policy::default()));
}

/// Path → route, on a host with twice as many expressions.
#[divan::bench(args = [10, 100, 1_000])]
fn looking_up_expressions(bencher: Bencher<'_, '_>, count: usize) {
    let (plan, _) = compile(&rewriting(count), &Policy::default());
    let key = fake().expect("a certificate can be made");
    let live = Live::next(Arc::new(plan), &Live::empty(key));
    let path = format!("/app-{}/api/v1/items/7", count / 2);
    bencher.bench(|| {
        let paths = live.table.host(black_box("apps.example.org"));
        paths.and_then(|it| it.find(black_box(&path)))
    });
}
