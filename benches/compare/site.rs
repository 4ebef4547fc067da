//! What all proxies are given, and how each is configured and started.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use tempfile::TempDir;

use crate::Result;
use crate::process::{LOAD_CORE, PROXY_CORE, Process, free_port, ready};

/// The host that is asked for wherever one is enough.
pub(crate) const HOST: &str = "bench.test";

/// What all proxies are given.
pub(crate) struct Site {
    directory: TempDir,
    /// Port of what they proxy to: 100 bytes, and 1 MiB at `/large`.
    pub(crate) backend: u16,
    /// The one certificate of all hosts.
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
}

impl Site {
    pub(crate) fn new() -> Result<Self> {
        let made = rcgen::generate_simple_self_signed([HOST.to_owned(), "*.test".to_owned()])?;
        let site = Self {
            directory: tempfile::Builder::new().prefix("lockgate-bench-").tempdir()?,
            backend: free_port()?,
            certificate: made.cert.der().clone(),
            certificate_pem: made.cert.pem(),
            key_pem: made.signing_key.serialize_pem(),
        };
        fs::write(site.path("tls.crt"), &site.certificate_pem)?;
        fs::write(site.path("tls.key"), &site.key_pem)?;
        fs::write(site.path("tls.pem"), format!("{}{}", site.certificate_pem, site.key_pem))?;
        Ok(site)
    }

    /// A file of this run.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A directory that goes with whoever it is for.
    pub(crate) fn directory(&self) -> Result<TempDir> {
        Ok(tempfile::tempdir_in(&self.directory)?)
    }

    /// Starts what all of them proxy to.
    pub(crate) fn start_backend(&self) -> Result<Process> {
        let directory = self.path("backend");
        fs::create_dir(&directory)?;
        fs::write(directory.join("large"), vec![b'x'; 1 << 20])?;
        let config = format!(
            "daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/error.log;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log off; keepalive_requests 100000000; sendfile on; default_type text/plain;\n\
             server {{ listen 127.0.0.1:{port} backlog=4096; root {dir};\n\
             location = /large {{ }}\n location / {{ return 200 \"{body}\"; }} }} }}\n",
            dir = directory.display(),
            port = self.backend,
            body = "x".repeat(100),
        );
        let file = self.path("backend.conf");
        fs::write(&file, config)?;
        let command = format!("nginx -c {}", file.display());
        let mut process = Process::start(LOAD_CORE, 1, &self.path("backend.log"), &command)?;
        process.listens(self.backend)?;
        Ok(process)
    }
}

/// How a proxy is to run.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// Hosts besides [`HOST`]: `h0.test`, `h1.test` and so on.
    pub(crate) hosts: usize,
    pub(crate) workers: usize,
    pub(crate) cores: &'static str,
    /// Whether it will be told to read its configuration again.
    pub(crate) reloads: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self { hosts: 0, workers: 1, cores: PROXY_CORE, reloads: false }
    }
}

impl Shape {
    fn names(&self) -> impl Iterator<Item = String> {
        std::iter::once(HOST.to_owned()).chain((0..self.hosts).map(|it| format!("h{it}.test")))
    }
}

/// A program that is measured.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// Starts it with its files in a directory, for HTTPS on a port.
    start: fn(&Site, &Shape, &Path, u16) -> Result<Process>,
}

/// Lockgate and its peers.
pub(crate) const PEERS: [Peer; 4] = [
    Peer { name: "lockgate", start: lockgate },
    Peer { name: "nginx", start: nginx },
    Peer { name: "haproxy", start: haproxy },
    Peer { name: "caddy", start: caddy },
];

/// One that runs.
pub(crate) struct Running {
    pub(crate) name: &'static str,
    pub(crate) process: Process,
    /// Of HTTPS.
    pub(crate) port: u16,
    /// Dropped, and so removed, after the process that uses it.
    _directory: TempDir,
}

/// Starts those of some names; a peer that cannot be started is left out, and said so.
pub(crate) fn start(site: &Site, shape: &Shape, names: &[&str]) -> Result<Vec<Running>> {
    let mut running = Vec::new();
    for peer in PEERS.iter().filter(|it| names.contains(&it.name)) {
        let directory = site.directory()?;
        let port = free_port()?;
        let started = (peer.start)(site, shape, directory.path(), port)
            .and_then(|mut process| process.listens(port).map(|()| process));
        match started {
            Ok(process) => {
                running.push(Running { name: peer.name, process, port, _directory: directory });
            }
            Err(error) if peer.name == "lockgate" => return Err(error),
            Err(error) => eprintln!("{} is left out: {error}", peer.name),
        }
    }
    Ok(running)
}

/// The same for all of them.
pub(crate) fn start_all(site: &Site, shape: &Shape) -> Result<Vec<Running>> {
    start(site, shape, &PEERS.map(|it| it.name))
}

/// Lockgate, wherever its objects come from.
pub(crate) struct Lockgate {
    pub(crate) process: Process,
    pub(crate) http: u16,
    pub(crate) https: u16,
}

impl Lockgate {
    /// Starts it with a flag that says where its objects are, and waits until it is ready.
    pub(crate) fn start(shape: &Shape, log: &Path, source: &str, https: u16) -> Result<Self> {
        let (http, admin) = (free_port()?, free_port()?);
        let command = format!(
            "{binary} serve {source} --issuer none --bind 127.0.0.1 --healthz-host 127.0.0.1 \
             --workers {workers} --shutdown-grace-period 0 --drain-timeout 1s \
             --disable-leader-election --update-status=false --max-connections-per-address 0 \
             --http-port {http} --https-port {https} --healthz-port {admin}",
            binary = env!("CARGO_BIN_EXE_lockgate"),
            workers = shape.workers,
        );
        let process = Process::start(shape.cores, shape.workers, log, &command)?;
        ready(admin)?;
        Ok(Self { process, http, https })
    }
}

fn lockgate(site: &Site, shape: &Shape, directory: &Path, port: u16) -> Result<Process> {
    let indent =
        |pem: &str| pem.lines().fold(String::new(), |all, line| all + "    " + line + "\n");
    let mut yaml = format!(
        "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {{name: nginx}}\n\
         spec: {{controller: k8s.io/ingress-nginx}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: bench}}\n\
         spec: {{ports: [{{name: http, port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {{name: web, namespace: bench, labels: {{kubernetes.io/service-name: web}}}}\n\
         ports: [{{name: http, port: {backend}, protocol: TCP}}]\n\
         endpoints: [{{addresses: [127.0.0.1]}}]\n---\n\
         apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\n\
         metadata: {{name: tls, namespace: bench}}\nstringData:\n  tls.crt: |\n{crt}  tls.key: |\n{key}",
        backend = site.backend,
        crt = indent(&site.certificate_pem),
        key = indent(&site.key_pem),
    );
    for (number, host) in shape.names().enumerate() {
        let service = "{service: {name: web, port: {number: 80}}}";
        write!(
            yaml,
            "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\n\
             metadata: {{name: i{number}, namespace: bench}}\nspec:\n  ingressClassName: nginx\n  \
             tls: [{{hosts: [{host}], secretName: tls}}]\n  rules:\n  - host: {host}\n    http:\n      \
             paths:\n      - {{path: /, pathType: Prefix, backend: {service}}}\n      \
             - {{path: /api, pathType: Prefix, backend: {service}}}\n"
        )?;
    }
    let objects = directory.join("objects");
    fs::create_dir(&objects)?;
    fs::write(objects.join("objects.yaml"), yaml)?;
    let source = format!("--manifests {}", objects.display());
    Ok(Lockgate::start(shape, &directory.join("log"), &source, port)?.process)
}

fn nginx(site: &Site, shape: &Shape, directory: &Path, port: u16) -> Result<Process> {
    let locations =
        "location / { proxy_pass http://web; } location /api { proxy_pass http://web; }";
    let mut servers = String::new();
    let mut backlog = " backlog=4096";
    for host in shape.names() {
        writeln!(
            servers,
            "server {{ listen 127.0.0.1:{port} ssl http2{backlog}; server_name {host}; {locations} }}"
        )?;
        // It may be said once for an address.
        backlog = "";
    }
    let config = format!(
        "daemon off; worker_processes {workers}; pid {dir}/nginx.pid; error_log {dir}/error.log;\n\
         events {{ worker_connections 8192; }}\nhttp {{\n\
         log_format full '$remote_addr - $remote_user [$time_local] \"$request\" $status \
         $body_bytes_sent \"$http_referer\" \"$http_user_agent\" $request_length $request_time \
         $upstream_addr $upstream_response_length $upstream_response_time $upstream_status $request_id';\n\
         access_log {dir}/access.log full buffer=16k flush=1s; keepalive_requests 100000000;\n\
         server_names_hash_max_size 65536; server_names_hash_bucket_size 128;\n\
         ssl_certificate {crt}; ssl_certificate_key {key};\n\
         ssl_protocols TLSv1.2 TLSv1.3; ssl_session_tickets off;\n\
         proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $http_host;\n\
         proxy_set_header X-Request-ID $request_id; proxy_set_header X-Real-IP $remote_addr;\n\
         proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Host $http_host;\n\
         proxy_set_header X-Forwarded-Port $server_port; proxy_set_header X-Forwarded-Proto $scheme;\n\
         proxy_buffering off;\n\
         upstream web {{ server 127.0.0.1:{backend}; keepalive 320; keepalive_requests 100000000; }}\n\
         {servers} }}\n",
        workers = shape.workers,
        dir = directory.display(),
        crt = site.path("tls.crt").display(),
        key = site.path("tls.key").display(),
        backend = site.backend,
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, config)?;
    let command = format!("nginx -c {}", file.display());
    Process::start(shape.cores, shape.workers, &directory.join("log"), &command)
}

fn haproxy(site: &Site, shape: &Shape, directory: &Path, port: u16) -> Result<Process> {
    let mut hosts = String::new();
    for host in shape.names() {
        writeln!(hosts, "{host}/ web\n{host}/api web")?;
    }
    let map = directory.join("map");
    fs::write(&map, hosts)?;
    let config = format!(
        "global\n  nbthread {workers}\n  maxconn 8192\n  log stdout format raw local0\n  \
         ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets\n\
         defaults\n  mode http\n  log global\n  option httplog\n  timeout connect 5s\n  \
         timeout client 75s\n  timeout server 60s\n  timeout http-keep-alive 75s\n  option forwardfor\n  \
         http-reuse always\n\
         frontend in\n  bind 127.0.0.1:{port} ssl crt {pem} alpn h2,http/1.1\n  \
         unique-id-format %[uuid()]\n  unique-id-header X-Request-ID\n  \
         http-request set-header X-Forwarded-Proto https\n  \
         http-request set-header X-Forwarded-Host %[req.hdr(host)]\n  \
         http-request set-header X-Forwarded-Port %[dst_port]\n  \
         http-request set-header X-Real-IP %[src]\n  \
         use_backend %[base,map_beg({map},web)]\n\
         backend web\n  server web 127.0.0.1:{backend} pool-max-conn 320\n",
        workers = shape.workers,
        pem = site.path("tls.pem").display(),
        map = map.display(),
        backend = site.backend,
    );
    let file = directory.join("haproxy.cfg");
    fs::write(&file, config)?;
    // Only a master can reload; without one there is a process less.
    let mode = if shape.reloads {
        format!("-W -S {}", directory.join("master.sock").display())
    } else {
        "-db".to_owned()
    };
    let command = format!("haproxy {mode} -f {}", file.display());
    Process::start(shape.cores, shape.workers, &directory.join("log"), &command)
}

fn caddy(site: &Site, shape: &Shape, directory: &Path, port: u16) -> Result<Process> {
    // The load tool gives the address as the server's name, which has to be a site for Caddy to answer.
    let names = std::iter::once("127.0.0.1".to_owned()).chain(shape.names());
    let hosts: Vec<String> = names.map(|it| format!("https://{it}:{port}")).collect();
    let config = format!(
        "{{\n  admin off\n  auto_https off\n  skip_install_trust\n  default_sni {HOST}\n  \
         servers {{\n    protocols h1 h2\n  }}\n}}\n{hosts} {{\n  \
         bind 127.0.0.1\n  tls {crt} {key}\n  log {{\n    output file {dir}/access.log {{\n      \
         roll_disabled\n    }}\n  }}\n  reverse_proxy 127.0.0.1:{backend} {{\n    \
         header_up X-Request-ID {{http.request.uuid}}\n    header_up X-Real-IP {{remote_host}}\n  }}\n}}\n",
        hosts = hosts.join(", "),
        dir = directory.display(),
        crt = site.path("tls.crt").display(),
        key = site.path("tls.key").display(),
        backend = site.backend,
    );
    let file = directory.join("Caddyfile");
    fs::write(&file, config)?;
    let command = format!("caddy run --adapter caddyfile --config {}", file.display());
    Process::start(shape.cores, shape.workers, &directory.join("log"), &command)
}
