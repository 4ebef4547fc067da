//! What is seen from outside: health, metrics, and what is served and why not.
//!
//! Read-only, on a port of its own (10254); never shows a private key, a token or a credential.

mod certificates;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::certs::standing::{Healths, Standings, State};
use crate::lease::Leadership;
use crate::live::Current;
use crate::metrics::{Metrics, Served};
use crate::model::plan::{Backend, Plan, Target};
use crate::proxy::Phase;
use crate::status::Compiled;
use crate::store::Store;

/// Longest a connection may last; whoever asks for health asks again.
const LONGEST: Duration = Duration::from_secs(60);

/// What the admin port shows.
#[derive(Clone, Debug)]
pub struct Admin {
    /// What is served.
    pub current: Current,
    /// What was compiled last.
    pub compiled: watch::Receiver<Compiled>,
    /// What is measured.
    pub metrics: Arc<Metrics>,
    /// How far the end has come.
    pub phase: watch::Receiver<Phase>,
    /// Whether requests should be sent here.
    pub ready: watch::Receiver<bool>,
    /// Whether this replica leads.
    pub leadership: Leadership,
    /// Where each certificate stands.
    pub standings: Standings,
    /// How the CA is.
    pub healths: Healths,
    /// Where objects come from.
    pub store: Store,
    /// `--health-check-path`
    pub health_path: String,
    /// `--enable-metrics`
    pub shows_metrics: bool,
    /// `--controller-class`, a label of certificates.
    pub class: String,
}

impl Admin {
    /// Answers on `listener` until the process ends.
    pub async fn run(self, listener: TcpListener) {
        let admin = Arc::new(self);
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let admin = admin.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let answer = admin.answer(&request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(Duration::from_secs(10))
                    .serve_connection(TokioIo::new(stream), service);
                // Its errors are the client's leaving.
                let _ = tokio::time::timeout(LONGEST, connection).await;
            });
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "read only\n");
        }
        match request.uri().path() {
            path if path == self.health_path => self.health(),
            "/readyz" => self.readiness(),
            "/metrics" if self.shows_metrics => {
                self.metrics.config_age.set(self.store.age());
                let page = self.metrics.page(|| {
                    self.metrics.certificates(&self.class, self.served());
                    self.measure();
                });
                let mut answer = text(StatusCode::OK, page);
                let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                answer.headers_mut().insert(CONTENT_TYPE, format);
                answer
            }
            "/api/routes" => object(&self.routes()),
            "/api/certificates" => object(&self.certificates()),
            "/api/problems" => object(&self.problems()),
            "/api/endpoints" => object(&self.endpoints()),
            "/" => self.page(),
            _ => text(StatusCode::NOT_FOUND, "not found\n"),
        }
    }

    /// 200 while alive, 500 from the moment shutdown begins, as ingress-nginx has it.
    fn health(&self) -> Response<Full<Bytes>> {
        if *self.phase.borrow() > Phase::Serving {
            return text(StatusCode::INTERNAL_SERVER_ERROR, "shutting down\n");
        }
        text(StatusCode::OK, "ok\n")
    }

    fn readiness(&self) -> Response<Full<Bytes>> {
        if *self.phase.borrow() > Phase::Serving {
            return text(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n");
        }
        if !*self.ready.borrow() {
            return text(StatusCode::SERVICE_UNAVAILABLE, "waiting for the first plan\n");
        }
        text(StatusCode::OK, "ok\n")
    }

    fn served(&self) -> Vec<Served> {
        let live = self.current.load();
        let served = live.keys.all().map(|(host, held)| Served {
            host: host.to_string(),
            secret: held.secret.clone(),
            serial: held.keypair.serial.clone(),
            not_after: held.keypair.not_after,
        });
        served.collect()
    }

    fn routes(&self) -> Value {
        let plan = self.current.load().plan.clone();
        let hosts = plan.hosts.iter().map(|(host, it)| {
            let paths = it.paths.iter().map(|(pattern, route)| {
                json!({
                    "path": pattern.as_str(),
                    "pathType": if pattern.is_exact() { "Exact" } else { "Prefix" },
                    "ingress": route.ingress.to_string(),
                    "target": target(&route.target),
                    "redirectsToHttps": route.to_https,
                })
            });
            json!({
                "host": host.to_string(),
                "owner": it.owner.to_string(),
                "tls": it.tls,
                "paths": paths.collect::<Vec<_>>(),
            })
        });
        json!({ "hosts": hosts.collect::<Vec<_>>() })
    }

    fn problems(&self) -> Value {
        let problems = self.compiled.borrow().problems.clone();
        let problems = problems.iter().map(|it| {
            json!({
                "kind": it.kind.as_str(),
                "namespace": &*it.object.namespace,
                "name": &*it.object.name,
                "reason": it.reason,
                "text": it.text,
            })
        });
        json!({ "problems": problems.collect::<Vec<_>>() })
    }

    fn endpoints(&self) -> Value {
        let plan = self.current.load().plan.clone();
        let backends = plan.backends.iter().map(|(id, Backend { addresses, external, .. })| {
            json!({
                "backend": id.to_string(),
                "service": id.service.to_string(),
                "port": &*id.port,
                "addresses": addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "external": external.as_ref().map(|(name, port)| format!("{name}:{port}")),
            })
        });
        json!({ "backends": backends.collect::<Vec<_>>() })
    }

    /// One page for people.
    fn page(&self) -> Response<Full<Bytes>> {
        let plan: Arc<Plan> = self.current.load().plan.clone();
        let problems = self.compiled.borrow().problems.clone();
        let mut rows = String::new();
        for (host, it) in &plan.hosts {
            for (pattern, route) in &it.paths {
                let cells = [
                    host.to_string(),
                    pattern.to_string(),
                    route.ingress.to_string(),
                    target(&route.target),
                ];
                rows.push_str(&row(&cells));
            }
        }
        let mut troubles = String::new();
        for it in &*problems {
            troubles.push_str(&row(&[it.kind.to_string(), it.object.to_string(), it.text.clone()]));
        }
        let mut certificates = String::new();
        let standings = self.all_standings(&self.current.load());
        for it in self.served() {
            // One that is not managed is somebody else's.
            let state = standings.get(&it.secret).map_or(State::Unmanaged, |it| it.state);
            let cells = [it.host, it.secret.to_string(), state.to_string(), moment(it.not_after)];
            certificates.push_str(&row(&cells));
        }
        let leads = if self.leadership.holds() { "leads" } else { "follows" };
        let page = format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Lockgate</title>\
             <style>body{{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;\
             padding:0 1rem}}table{{border-collapse:collapse;width:100%}}td,th{{text-align:left;\
             padding:.25rem .75rem .25rem 0;border-bottom:1px solid #ddd;vertical-align:top}}\
             </style></head><body><h1>Lockgate {version}</h1>\
             <p>This replica {leads}. {hosts} hosts, {certs} certificates, {count} problems.</p>\
             <h2>Problems</h2><table><tr><th>Kind<th>Object<th>What</tr>{troubles}</table>\
             <h2>Routes</h2><table><tr><th>Host<th>Path<th>Ingress<th>Goes to</tr>{rows}</table>\
             <h2>Certificates</h2><table><tr><th>Host<th>Secret<th>State<th>Good until</tr>{certificates}\
             </table><p><a href=\"/metrics\">metrics</a> <a href=\"/api/routes\">routes</a> \
             <a href=\"/api/certificates\">certificates</a> <a href=\"/api/endpoints\">endpoints</a> \
             <a href=\"/api/problems\">problems</a></p></body></html>",
            version = env!("CARGO_PKG_VERSION"),
            hosts = plan.hosts.len(),
            certs = plan.certificates.len(),
            count = problems.len(),
        );
        let mut answer = text(StatusCode::OK, page);
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        answer.headers_mut().insert(CONTENT_TYPE, html);
        answer
    }
}

fn target(target: &Target) -> String {
    match target {
        Target::Backend(id) => format!("{}:{}", id.service, id.port),
        Target::Fallback => "the default backend".to_owned(),
        Target::Nothing => "404".to_owned(),
        Target::Refused(why) => format!("503: {why}"),
    }
}

fn moment(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map(|it| it.to_string()).unwrap_or_default()
}

/// A table row; what objects say cannot become markup.
fn row(cells: &[String]) -> String {
    let escape = |it: &String| it.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let cells: Vec<String> = cells.iter().map(escape).collect();
    format!("<tr><td>{}</td></tr>", cells.join("</td><td>"))
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, plain);
    answer
}

fn object(value: &Value) -> Response<Full<Bytes>> {
    let mut answer = text(StatusCode::OK, format!("{value:#}\n"));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// Binds the admin port. Fails when it is taken.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|it| std::io::Error::new(it.kind(), format!("port {}: {it}", address.port())))
}
