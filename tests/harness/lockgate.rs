//! The product: its binary as a user starts it, and the objects a user would write.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::Value;
use tempfile::TempDir;

use super::client::{Client, ClientError, Connection, Reply};
use super::process::{Process, SOON, command, eventually, free_port};

/// How long the product may take until it is ready; for its account's key alone it waits half of that.
const READY: Duration = Duration::from_secs(60);

/// The namespace of all objects made here.
pub const NAMESPACE: &str = "demo";

/// The product running; killed when dropped, its directory removed.
pub struct Lockgate {
    /// Where it serves HTTP.
    pub http: SocketAddr,
    /// Where it serves HTTPS.
    pub https: SocketAddr,
    /// Health, metrics and the status API.
    pub admin: SocketAddr,
    process: Process,
    files: TempDir,
}

/// How to start the product.
#[derive(Clone, Debug, Default)]
pub struct Start {
    manifests: Option<String>,
    http_port: Option<u16>,
    first: String,
    https_port: Option<u16>,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl Start {
    /// More arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item: Into<String>>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// One more environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs this line of shell before, in the process that becomes the product.
    #[must_use]
    pub fn first(self, line: &str) -> Self {
        Self { first: line.to_owned(), ..self }
    }

    /// Asks the name servers of this resolv.conf(5) instead of the machine's; needs root.
    #[must_use]
    pub fn resolv_conf(self, file: &Path) -> Self {
        let file = file.display();
        // A mount namespace of its own; the process stays the same.
        let inner = r#"exec "$0" "$@" >"$STDOUT""#;
        let mounted = format!("mount --bind {file} /etc/resolv.conf && {inner}");
        self.first(&format!(r#"exec unshare --mount sh -c '{mounted}' "$0" "$@""#))
    }

    /// Serves HTTP at this port, which another replica may have, too.
    #[must_use]
    pub fn http_port(self, port: u16) -> Self {
        Self { http_port: Some(port), ..self }
    }

    /// Serves HTTPS at this port.
    #[must_use]
    pub fn https_port(self, port: u16) -> Self {
        Self { https_port: Some(port), ..self }
    }

    /// Starts it and waits until it is ready.
    pub async fn start(self) -> Lockgate {
        let lockgate = self.launch();
        lockgate.ready().await;
        lockgate
    }

    /// Starts it without waiting for anything.
    pub fn launch(self) -> Lockgate {
        let files = tempfile::tempdir().unwrap();
        let [http, https] =
            [self.http_port, self.https_port].map(|it| it.unwrap_or_else(free_port));
        let admin = free_port();
        // The shell only keeps stdout apart from the log; it is replaced by the product.
        let mut command = command("sh");
        let line = format!("{}\nexec \"$0\" \"$@\" >\"$STDOUT\"", self.first);
        command.args(["-c", &line, env!("CARGO_BIN_EXE_lockgate"), "serve"]);
        if let Some(yaml) = &self.manifests {
            let dir = files.path().join("manifests");
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(dir.join("objects.yaml"), yaml).unwrap();
            command.arg("--manifests").arg(dir);
        }
        command.args(["--bind", "127.0.0.1", "--healthz-host", "127.0.0.1", "--workers", "2"]);
        for (flag, port) in
            [("--http-port", http), ("--https-port", https), ("--healthz-port", admin)]
        {
            command.arg(flag).arg(port.to_string());
        }
        command.args(&self.args);
        without_settings(&mut command);
        command.env("TZ", "UTC").env("STDOUT", files.path().join("stdout"));
        command.envs(self.env);
        let [http, https, admin] =
            [http, https, admin].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        Lockgate { http, https, admin, process: Process::spawn(command), files }
    }
}

impl Lockgate {
    /// Serves the objects of `yaml`, without a cluster.
    pub fn with_manifests(yaml: impl Into<String>) -> Start {
        Start { manifests: Some(yaml.into()), ..Start::default() }
    }

    /// Serves what `args` say; ports, address and number of workers are added.
    pub fn with_args<I: IntoIterator<Item: Into<String>>>(args: I) -> Start {
        Start::default().args(args)
    }

    /// Waits until `/readyz` answers `200`.
    pub async fn ready(&self) {
        eventually("lockgate ready", READY, async || match self.admin("/readyz").await {
            // Waiting longer would not help a process that has ended.
            _ if self.process.exit_code().is_some() => panic!("ended:\n{}", self.stderr()),
            Ok(reply) if reply.status == 200 => Ok(()),
            Ok(reply) => Err(format!("{} {}", reply.status, reply.text())),
            Err(error) => Err(error.to_string()),
        })
        .await;
    }

    /// Replaces `objects.yaml` in one step.
    pub fn edit(&self, yaml: impl AsRef<[u8]>) {
        self.write("objects.yaml", yaml);
    }

    /// Writes one more file of objects, or replaces it, in one step.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let new = self.files.path().join(name);
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.dir().join(name)).unwrap();
    }

    /// The directory given to `--manifests`.
    pub fn dir(&self) -> PathBuf {
        self.files.path().join("manifests")
    }

    /// The content of a file in the directory of manifests.
    pub fn file(&self, name: impl AsRef<Path>) -> Option<String> {
        std::fs::read_to_string(self.dir().join(name)).ok()
    }

    /// Waits until `GET url` without TLS answers `status`; gives that answer.
    pub async fn answers(&self, url: &str, status: u16) -> Reply {
        let client = self.client();
        eventually(&format!("{status} at {url}"), SOON, async || {
            let reply = client.get(url).await.map_err(|error| error.to_string())?;
            let found = (reply.status == status).then_some(reply.clone());
            found.ok_or_else(|| format!("{} {}", reply.status, reply.text()))
        })
        .await
    }

    /// Waits until something is told with this reason; gives the text.
    pub async fn problem(&self, reason: &str) -> String {
        eventually(&format!("problem {reason}"), SOON, async || {
            let all = self.admin_json("/api/problems").await;
            let problems = all["problems"].as_array().into_iter().flatten();
            let text =
                problems.filter(|it| it["reason"] == reason).find_map(|it| it["text"].as_str());
            text.map(str::to_owned).ok_or_else(|| all.to_string())
        })
        .await
    }

    /// Waits until nothing is told.
    pub async fn no_problem(&self) {
        self.no_problem_within(SOON).await;
    }

    /// The same, with more or less patience.
    pub async fn no_problem_within(&self, limit: Duration) {
        eventually("no problems", limit, async || {
            let all = self.admin_json("/api/problems").await;
            let none = all["problems"].as_array().is_some_and(Vec::is_empty);
            none.then_some(()).ok_or_else(|| all.to_string())
        })
        .await;
    }

    /// A client whose plain connections all go here.
    pub fn client(&self) -> Client {
        Client::new().connect_to(self.http)
    }

    /// A client whose TLS connections all go here, taking any certificate.
    pub fn tls_client(&self) -> Client {
        Client::new().insecure().connect_to(self.https)
    }

    /// A connection to `NAME.test` for each protocol: HTTP/1.1 in clear, and HTTP/2.
    pub async fn connections(&self, name: &str) -> [(&'static str, Connection); 2] {
        let h1 = self.client().connect(&format!("http://{name}.test/")).await;
        let h2 = self.tls_client().http2().connect(&format!("https://{name}.test/")).await;
        [("HTTP/1.1", h1.unwrap()), ("HTTP/2", h2.unwrap())]
    }

    /// What `GET path` says on the port for health and metrics.
    pub async fn admin(&self, path: &str) -> Result<Reply, ClientError> {
        Client::new().get(&format!("http://{}{path}", self.admin)).await
    }

    /// The JSON at `path`, such as `/api/routes`.
    pub async fn admin_json(&self, path: &str) -> Value {
        let reply = self.admin(path).await.unwrap_or_else(|error| panic!("{path}: {error}"));
        serde_json::from_slice(&reply.body)
            .unwrap_or_else(|error| panic!("{path}: {error}: {}", reply.text()))
    }

    /// All metrics in Prometheus's text format.
    pub async fn metrics(&self) -> String {
        self.admin("/metrics").await.expect("metrics are served").text()
    }

    /// The sum of a metric over the series whose labels contain all of `labels`, such as
    /// `status="404"`; 0 when there is none.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.metrics().await;
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (series, value) = rest.rsplit_once(' ')?;
            let whole = series.is_empty() || series.starts_with('{');
            (whole && labels.iter().all(|it| series.contains(it)))
                .then(|| value.parse::<f64>().ok())?
        });
        values.sum::<f64>()
    }

    /// The access log so far.
    pub fn stdout(&self) -> String {
        std::fs::read_to_string(self.files.path().join("stdout")).unwrap_or_default()
    }

    /// Its own log so far.
    pub fn stderr(&self) -> String {
        self.process.log()
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// CPU time it has used so far.
    pub fn cpu(&self) -> Duration {
        // Fields 14 and 15 of proc(5), in hundredths of a second; the name before them may hold spaces.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks = fields.skip(11).take(2).filter_map(|it| it.parse::<u64>().ok());
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }

    /// Its memory now, in bytes: what the kernel counts as resident.
    pub fn memory(&self) -> u64 {
        self.memory_of("VmRSS:")
    }

    /// The most memory it ever had, in bytes.
    pub fn memory_peak(&self) -> u64 {
        self.memory_of("VmHWM:")
    }

    /// A line of proc(5)'s `status`, which has kibibytes.
    fn memory_of(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|it| it.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// How many files, sockets and the like it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// The program itself.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Sends a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Waits for it to end by itself; gives its exit code.
    pub async fn wait(&self, limit: Duration) -> i32 {
        self.process.wait(limit).await
    }
}

/// Keeps settings that the test itself was started with from the product.
pub fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let ambient = ["LOCKGATE_", "LEGO_", "KUBE", "POD_", "RUST_LOG"];
        if ambient.iter().any(|it| name.to_string_lossy().starts_with(it)) {
            command.env_remove(name);
        }
    }
}

/// The class `nginx`, as ingress-nginx installs it.
pub fn ingress_class() -> String {
    "---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata:
  name: nginx
spec:
  controller: k8s.io/ingress-nginx
"
    .to_owned()
}

/// An Ingress of class `nginx` with the paths of one host, each `(path, type, service, port)`; an
/// empty host means any. Annotations without a prefix are ingress-nginx's.
pub fn ingress(
    name: &str,
    host: &str,
    paths: &[(&str, &str, &str, u16)],
    annotations: &[(&str, &str)],
) -> String {
    ingress_tls(name, host, paths, annotations, "")
}

/// The same with TLS from the Secret `secret`, unless that is empty.
pub fn ingress_tls(
    name: &str,
    host: &str,
    paths: &[(&str, &str, &str, u16)],
    annotations: &[(&str, &str)],
    secret: &str,
) -> String {
    let mut yaml = head("networking.k8s.io/v1", "Ingress", name);
    if !annotations.is_empty() {
        yaml.push_str("  annotations:\n");
    }
    for (name, value) in annotations {
        let prefix = if name.contains('/') { "" } else { "nginx.ingress.kubernetes.io/" };
        writeln!(yaml, "    {}: {}", quoted(&format!("{prefix}{name}")), quoted(value)).unwrap();
    }
    yaml.push_str("spec:\n  ingressClassName: nginx\n");
    if !secret.is_empty() {
        let (host, secret) = (quoted(host), quoted(secret));
        writeln!(yaml, "  tls:\n  - hosts: [{host}]\n    secretName: {secret}").unwrap();
    }
    yaml.push_str("  rules:\n  - ");
    if !host.is_empty() {
        write!(yaml, "host: {}\n    ", quoted(host)).unwrap();
    }
    yaml.push_str("http:\n      paths:\n");
    for (path, kind, service, port) in paths {
        writeln!(
            yaml,
            "      - path: {}
        pathType: {kind}
        backend:
          service:
            name: {service}
            port:
              number: {port}",
            quoted(path)
        )
        .unwrap();
    }
    yaml
}

/// Name, host and paths of an Ingress, its annotations, and the Secret of its certificate or nothing.
///
/// Paths are pairs of a path and the Service it leads to; one that begins with `=` is exact.
pub type Rules<'a> =
    (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a [(&'a str, &'a str)], &'a str);

/// An Ingress for each of these.
pub fn rules(all: &[Rules<'_>]) -> String {
    let mut yaml = String::new();
    for (name, host, paths, annotations, secret) in all {
        let paths = paths.iter().map(|(path, service)| match path.strip_prefix('=') {
            Some(path) => (path, "Exact", *service, 80),
            None => (*path, "ImplementationSpecific", *service, 80),
        });
        yaml += &ingress_tls(name, host, &paths.collect::<Vec<_>>(), annotations, secret);
    }
    yaml
}

/// A Service with one port, named as in [`endpoints`].
pub fn service(name: &str, port: u16) -> String {
    let mut yaml = head("v1", "Service", name);
    write!(
        yaml,
        "spec:
  selector:
    app: {name}
  ports:
  - name: p{port}
    port: {port}
    protocol: TCP
"
    )
    .unwrap();
    yaml
}

/// The `EndpointSlice` objects of a Service's port: one for each port number among `addrs`.
pub fn endpoints(service: &str, port: u16, addrs: &[SocketAddr]) -> String {
    let mut ports: Vec<u16> = addrs.iter().map(SocketAddr::port).collect();
    ports.sort_unstable();
    ports.dedup();
    if ports.is_empty() {
        ports.push(port);
    }
    let mut yaml = String::new();
    for target in ports {
        yaml +=
            &head("discovery.k8s.io/v1", "EndpointSlice", &format!("{service}-{port}-{target}"));
        write!(
            yaml,
            "  labels:
    kubernetes.io/service-name: {service}
addressType: IPv4
ports:
- name: p{port}
  port: {target}
  protocol: TCP
endpoints:"
        )
        .unwrap();
        let mut addrs = addrs.iter().filter(|it| it.port() == target).peekable();
        yaml.push_str(if addrs.peek().is_none() { " []\n" } else { "\n" });
        for addr in addrs {
            writeln!(yaml, "- addresses: [{}]\n  conditions:\n    ready: true", addr.ip()).unwrap();
        }
    }
    yaml
}

/// A Service and its endpoints.
pub fn backend(name: &str, port: u16, addrs: &[SocketAddr]) -> String {
    service(name, port) + &endpoints(name, port, addrs)
}

/// A Secret of type `kubernetes.io/tls`.
pub fn tls_secret(name: &str, pair: &Pair) -> String {
    let mut yaml = head("v1", "Secret", name);
    yaml.push_str("type: kubernetes.io/tls\ndata:\n");
    for (key, pem) in [("tls.crt", &pair.certificate), ("tls.key", &pair.key)] {
        writeln!(yaml, "  {key}: {}", STANDARD.encode(pem)).unwrap();
    }
    yaml
}

/// A Secret with these entries.
pub fn secret(name: &str, entries: &[(&str, &str)]) -> String {
    let mut yaml = head("v1", "Secret", name);
    yaml.push_str("data:\n");
    for (key, text) in entries {
        writeln!(yaml, "  {key}: {}", STANDARD.encode(text)).unwrap();
    }
    yaml
}

/// A `ConfigMap` with these entries.
pub fn config_map(name: &str, entries: &[(&str, &str)]) -> String {
    let mut yaml = head("v1", "ConfigMap", name);
    yaml.push_str("data:\n");
    for (key, text) in entries {
        writeln!(yaml, "  {key}: {}", quoted(text)).unwrap();
    }
    yaml
}

/// A self-signed certificate and its key, both PEM; the certificate is its own CA.
#[derive(Clone, Debug)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// A new certificate for `names`.
pub fn pair(names: &[&str]) -> Pair {
    let names: Vec<String> = names.iter().map(|it| (*it).to_owned()).collect();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    Pair { certificate: certificate.pem(), key: key.serialize_pem() }
}

/// A CA that issues certificates for tests.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // By default all have the same name, and what it issues would look self-signed.
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// Its own certificate as PEM.
    pub fn pem(&self) -> &str {
        &self.certificate
    }

    /// A new certificate for `names`, and its key.
    pub fn issue(&self, names: &[&str]) -> Pair {
        let names: Vec<String> = names.iter().map(|it| (*it).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

fn head(version: &str, kind: &str, name: &str) -> String {
    format!(
        "---
apiVersion: {version}
kind: {kind}
metadata:
  namespace: {NAMESPACE}
  name: {name}
"
    )
}

/// A text as YAML takes it, whatever is in it.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

mod checks {
    use super::*;

    #[test]
    fn objects_are_written_as_kubectl_prints_them() {
        let addrs = ["127.0.0.1:1001", "127.0.0.2:1002", "127.0.0.3:1001"];
        let addrs = addrs.map(|it| it.parse().unwrap());
        let mut paths = vec![("/", "Prefix", "web", 80), ("/x", "Exact", "web", 80)];
        let annotations = [("ssl-redirect", "false"), ("lockgate.dev/self-check", "off")];
        let tls = pair(&["a.test"]);
        let yaml = [
            ingress_class(),
            ingress_tls("one", "*.a.test", &paths, &annotations, "tls"),
            ingress("two", "", &paths.split_off(1), &[]),
            backend("web", 80, &addrs),
            endpoints("none", 80, &[]),
            tls_secret("tls", &tls),
        ];
        let parse = |text: &str| serde_saphyr::from_str::<Value>(text).unwrap();
        let yaml = yaml.concat();
        let all: Vec<Value> = yaml.split("---\n").skip(1).map(parse).collect();
        assert_eq!(all.len(), 8, "{yaml}");
        assert_eq!(all[1]["spec"]["tls"][0]["hosts"][0], "*.a.test");
        let said = &all[1]["metadata"]["annotations"];
        assert_eq!(said["nginx.ingress.kubernetes.io/ssl-redirect"], "false");
        assert_eq!(said["lockgate.dev/self-check"], "off");
        let rule = &all[1]["spec"]["rules"][0];
        assert_eq!(rule["http"]["paths"][1]["backend"]["service"]["port"]["number"], 80);
        assert_eq!(
            (&all[2]["spec"]["rules"][0]["host"], &rule["host"]),
            (&Value::Null, &"*.a.test".into())
        );
        let (slice, port) = (&all[4], &all[3]["spec"]["ports"][0]["name"]);
        assert_eq!(
            (&slice["ports"][0]["name"], slice["ports"][0]["port"].as_u64()),
            (port, Some(1001))
        );
        assert_eq!(slice["endpoints"][1]["addresses"][0], "127.0.0.3");
        assert_eq!(all[6]["endpoints"].as_array().map(Vec::len), Some(0));
        assert_eq!(all[7]["data"]["tls.crt"], STANDARD.encode(&tls.certificate));
    }
}
