//! Lockgate beside nginx, HAProxy and Caddy: CPU time of the proxy per request, in one run.
//!
//! `cargo bench --bench compare` prints a table. Each proxy is pinned to one core, load and backend to
//! another; all have TLS with the same P-256 certificate, keep connections to the backend, add the same
//! headers and write an access log. Rounds are interleaved, so that a busy machine is busy for all;
//! figures are medians, and ratios within one run are what counts.
//!
//! Needs Debian's `nginx-light`, `haproxy`, `caddy`, `wrk` and `nghttp2-client`; a peer that is not there
//! is left out, and said so. `ROUNDS` (5), `SECONDS` (4) and `HOSTS` (10000) change its size.
#![expect(clippy::disallowed_methods, reason = "a bench is configured by its environment")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The host that all rows but the one with many hosts ask for.
const HOST: &str = "bench.test";
const PROXY_CORE: &str = "0";
const LOAD_CORE: &str = "1";

/// What is measured.
struct Row {
    name: &'static str,
    /// At most this much of the best peer's CPU time per request.
    target: f64,
    /// Whether it is served with many hosts configured.
    many: bool,
    load: fn(&Run<'_>) -> Command,
}

/// One run of the load.
struct Run<'a> {
    port: u16,
    seconds: u64,
    directory: &'a Path,
}

const ROWS: [Row; 5] = [
    Row {
        name: "HTTPS/1.1 keep-alive, 100 bytes, 64 connections",
        target: 0.85,
        many: false,
        load: |run| wrk(run, 64, "/", &[]),
    },
    Row {
        name: "HTTPS HTTP/2, 16 connections x 32 streams",
        target: 0.90,
        many: false,
        load: |run| {
            let mut command = Command::new("h2load");
            command.args(["-c16", "-m32", "-t1", "-D", &run.seconds.to_string()]);
            command.arg(format!("--connect-to=127.0.0.1:{}", run.port));
            command.arg(format!("https://{HOST}/"));
            command
        },
    },
    Row {
        name: "new connection, full TLS 1.3 handshake per request",
        target: 0.65,
        many: false,
        load: |run| wrk(run, 64, "/", &["-H", "Connection: close"]),
    },
    Row {
        name: "1 MiB answers, 8 connections",
        target: 0.85,
        many: false,
        load: |run| wrk(run, 8, "/large", &[]),
    },
    Row {
        name: "the first row with many hosts, random ones asked",
        target: 0.85,
        many: true,
        load: |run| {
            let script = run.directory.join("hosts.lua");
            let script = script.to_string_lossy().into_owned();
            wrk(run, 64, "/", &["-s", &script])
        },
    },
];

fn wrk(run: &Run<'_>, connections: u32, path: &str, more: &[&str]) -> Command {
    let mut command = Command::new("wrk");
    command.args(["-t1", &format!("-c{connections}"), &format!("-d{}s", run.seconds)]);
    command.args(["-H", &format!("Host: {HOST}")]).args(more);
    command.arg(format!("https://127.0.0.1:{}{path}", run.port));
    command
}

/// A program that is measured, with few hosts configured and with many.
struct Peer {
    name: &'static str,
    start: fn(&Site, many: bool, port: u16) -> Result<Child>,
}

const PEERS: [Peer; 4] = [
    Peer { name: "lockgate", start: lockgate },
    Peer { name: "nginx", start: nginx },
    Peer { name: "haproxy", start: haproxy },
    Peer { name: "caddy", start: caddy },
];

/// What all proxies are given.
struct Site {
    directory: PathBuf,
    backend: u16,
    hosts: usize,
    certificate: String,
    key: String,
}

impl Site {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn names(&self, many: bool) -> Vec<String> {
        let more = (0..if many { self.hosts } else { 0 }).map(|it| format!("h{it}.test"));
        std::iter::once(HOST.to_owned()).chain(more).collect()
    }
}

fn main() -> Result<()> {
    let number = |name: &str, usual: u64| {
        std::env::var(name).ok().and_then(|it| it.parse().ok()).unwrap_or(usual)
    };
    let (rounds, seconds) = (number("ROUNDS", 5), number("SECONDS", 4));
    let hosts = usize::try_from(number("HOSTS", 10_000))?;
    let directory = std::env::temp_dir().join(format!("lockgate-bench-{}", std::process::id()));
    fs::create_dir(&directory)?;
    let result = measure(&directory, rounds, seconds, hosts);
    fs::remove_dir_all(&directory)?;
    result
}

fn measure(directory: &Path, rounds: u64, seconds: u64, hosts: usize) -> Result<()> {
    let mut names = vec![HOST.to_owned(), "*.test".to_owned()];
    names.dedup();
    let made = rcgen::generate_simple_self_signed(names)?;
    let site = Site {
        directory: directory.to_owned(),
        backend: free_port()?,
        hosts,
        certificate: made.cert.pem(),
        key: made.signing_key.serialize_pem(),
    };
    fs::write(site.path("tls.crt"), &site.certificate)?;
    fs::write(site.path("tls.key"), &site.key)?;
    fs::write(site.path("tls.pem"), format!("{}{}", site.certificate, site.key))?;
    let script = "math.randomseed(1)\nrequest = function()\n  local host = \"h\" .. \
                  math.random(0, {}) .. \".test\"\n  return wrk.format(\"GET\", math.random(2) == 1 \
                  and \"/\" or \"/api/x\", {Host = host})\nend\n";
    fs::write(site.path("hosts.lua"), script.replace("{}", &(hosts - 1).to_string()))?;
    let _backend = backend(&site)?;
    let mut running = Vec::new();
    for peer in &PEERS {
        for many in [false, true] {
            let port = free_port()?;
            match (peer.start)(&site, many, port) {
                Ok(child) => running.push((peer.name, many, Guard(child), port)),
                Err(error) => eprintln!("{} is left out: {error}", peer.name),
            }
        }
    }
    for (name, _, _, port) in &running {
        answers(*port).map_err(|error| format!("{name} does not answer: {error}"))?;
    }
    println!(
        "CPU time of the proxy per request in microseconds, median of {rounds} rounds of {seconds} s"
    );
    println!("| work | lockgate | nginx | haproxy | caddy | ours / best peer | at most |");
    println!("|---|---|---|---|---|---|---|");
    for row in &ROWS {
        let mut figures: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for _ in 0..rounds {
            for (name, _, child, port) in running.iter().filter(|(_, many, ..)| *many == row.many) {
                let run = Run { port: *port, seconds, directory };
                figures.entry(name).or_default().push(cpu_per_request(row, &run, child.0.id())?);
            }
        }
        let medians: BTreeMap<&str, f64> =
            figures.into_iter().map(|(name, figures)| (name, median(figures))).collect();
        // Who answers nothing (Caddy does not without a server name, which wrk sends none of) is no peer.
        let show = |name: &str| match medians.get(name) {
            Some(it) if it.is_finite() => format!("{it:.1}"),
            _ => "-".to_owned(),
        };
        let peers = medians.iter().filter(|(name, _)| **name != "lockgate").map(|(_, it)| *it);
        let ratio = medians["lockgate"] / peers.fold(f64::INFINITY, f64::min);
        println!(
            "| {} | {} | {} | {} | {} | {ratio:.2} | {:.2} |",
            row.name,
            show("lockgate"),
            show("nginx"),
            show("haproxy"),
            show("caddy"),
            row.target
        );
    }
    Ok(())
}

/// Runs the load once; gives microseconds of CPU time per request.
fn cpu_per_request(row: &Row, run: &Run<'_>, pid: u32) -> Result<f64> {
    let before = cpu(pid)?;
    let load = (row.load)(run);
    let mut pinned = Command::new("taskset");
    pinned.args(["-c", LOAD_CORE]).arg(load.get_program()).args(load.get_args());
    let output = pinned.output()?;
    let spent = cpu(pid)? - before;
    let text = String::from_utf8_lossy(&output.stdout);
    let requests = requests(&text).ok_or_else(|| format!("no figures in:\n{text}"))?;
    Ok(spent * 1e6 / requests)
}

/// How many requests a load tool says were answered well.
fn requests(text: &str) -> Option<f64> {
    if text.contains("Non-2xx") {
        return None;
    }
    let wrk = text.lines().find(|it| it.contains(" requests in "));
    let h2load = text.lines().find(|it| it.starts_with("requests:"));
    match (wrk, h2load) {
        (Some(line), _) => line.split_whitespace().next()?.parse().ok(),
        (None, Some(line)) => {
            let words: Vec<&str> = line.split_whitespace().collect();
            let place = words.iter().position(|it| it.starts_with("succeeded"))?;
            words.get(place - 1)?.parse().ok()
        }
        (None, None) => None,
    }
}

/// CPU seconds of a process and its children that live.
fn cpu(pid: u32) -> Result<f64> {
    let mut seconds = 0.0;
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let all = children.split_whitespace().map(str::to_owned).chain([pid.to_string()]);
    for pid in all {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split(' ').collect();
        let ticks = fields[12].parse::<f64>()? + fields[13].parse::<f64>()?;
        seconds += ticks / 100.0;
    }
    Ok(seconds)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// A process that ends with us.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // A signal that can be caught, so that nginx ends its workers; it may have ended by itself.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Waits until somebody listens.
fn answers(port: u16) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => std::thread::yield_now(),
        }
    }
}

/// Starts a program on a core, its words in a file.
fn spawn(site: &Site, core: &str, log: &str, mut command: Vec<String>) -> Result<Child> {
    let program = command.remove(0);
    if !Command::new("which").arg(&program).stdout(Stdio::null()).status()?.success() {
        return Err(format!("{program} is not installed").into());
    }
    let log = fs::File::create(site.path(log))?;
    let child = Command::new("taskset")
        .args(["-c", core])
        .arg(program)
        .args(command)
        .env("GOMAXPROCS", "1")
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    Ok(child)
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn backend(site: &Site) -> Result<Guard> {
    let directory = site.path("backend");
    fs::create_dir(&directory)?;
    fs::write(directory.join("large"), vec![b'x'; 1 << 20])?;
    let config = format!(
        "daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 100000000; sendfile on; default_type text/plain;\n\
         server {{ listen 127.0.0.1:{port} backlog=4096; root {dir};\n\
         location = /large {{ }}\n location / {{ return 200 \"{body}\"; }} }} }}\n",
        dir = directory.display(),
        port = site.backend,
        body = "x".repeat(100),
    );
    let file = site.path("backend.conf");
    fs::write(&file, config)?;
    let child =
        spawn(site, LOAD_CORE, "backend.log", words(&format!("nginx -c {}", file.display())))?;
    answers(site.backend)?;
    Ok(Guard(child))
}

fn lockgate(site: &Site, many: bool, port: u16) -> Result<Child> {
    let directory = site.path(&format!("lockgate-{many}"));
    fs::create_dir(&directory)?;
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
        crt = indent(&site.certificate),
        key = indent(&site.key),
    );
    for (number, host) in site.names(many).iter().enumerate() {
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
    fs::write(directory.join("objects.yaml"), yaml)?;
    let (http, admin) = (free_port()?, free_port()?);
    let binary = env!("CARGO_BIN_EXE_lockgate");
    let command = format!(
        "{binary} serve --manifests {dir} --issuer none --bind 127.0.0.1 --healthz-host 127.0.0.1 \
         --workers 1 --shutdown-grace-period 0 --http-port {http} --https-port {port} --healthz-port {admin}",
        dir = directory.display(),
    );
    let child = spawn(site, PROXY_CORE, &format!("lockgate-{many}.log"), words(&command))?;
    ready(admin)?;
    Ok(child)
}

/// Waits until Lockgate serves its first plan.
fn ready(admin: u16) -> Result<()> {
    use std::io::{Read, Write};
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let asked = TcpStream::connect(("127.0.0.1", admin)).and_then(|mut stream| {
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer.starts_with("HTTP/1.1 200"))
        });
        match asked {
            Ok(true) => return Ok(()),
            _ if Instant::now() > deadline => return Err("lockgate is not ready".into()),
            _ => std::thread::yield_now(),
        }
    }
}

fn nginx(site: &Site, many: bool, port: u16) -> Result<Child> {
    let directory = site.path(&format!("nginx-{many}"));
    fs::create_dir(&directory)?;
    let locations =
        "location / { proxy_pass http://web; } location /api { proxy_pass http://web; }";
    let mut servers = String::new();
    for host in site.names(many) {
        writeln!(
            servers,
            "server {{ listen 127.0.0.1:{port} ssl http2 backlog=4096; server_name {host}; {locations} }}"
        )?;
    }
    let servers = servers.replacen(" backlog=4096", " BACKLOG", 1).replace(" backlog=4096", "");
    let servers = servers.replace(" BACKLOG", " backlog=4096");
    let config = format!(
        "daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/error.log;\n\
         events {{ worker_connections 8192; }}\nhttp {{\n\
         log_format full '$remote_addr - $remote_user [$time_local] \"$request\" $status \
         $body_bytes_sent \"$http_referer\" \"$http_user_agent\" $request_length $request_time \
         $upstream_addr $upstream_response_length $upstream_response_time $upstream_status $request_id';\n\
         access_log {dir}/access.log full buffer=16k flush=1s; keepalive_requests 100000000;\n\
         server_names_hash_max_size 65536; server_names_hash_bucket_size 128;\n\
         ssl_certificate {root}/tls.crt; ssl_certificate_key {root}/tls.key;\n\
         ssl_protocols TLSv1.2 TLSv1.3; ssl_session_tickets off;\n\
         proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $http_host;\n\
         proxy_set_header X-Request-ID $request_id; proxy_set_header X-Real-IP $remote_addr;\n\
         proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Host $http_host;\n\
         proxy_set_header X-Forwarded-Port $server_port; proxy_set_header X-Forwarded-Proto $scheme;\n\
         proxy_buffering off;\n\
         upstream web {{ server 127.0.0.1:{backend}; keepalive 320; keepalive_requests 100000000; }}\n\
         {servers} }}\n",
        dir = directory.display(),
        root = site.directory.display(),
        backend = site.backend,
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, config)?;
    let log = format!("nginx-{many}.log");
    spawn(site, PROXY_CORE, &log, words(&format!("nginx -c {}", file.display())))
}

fn haproxy(site: &Site, many: bool, port: u16) -> Result<Child> {
    let hosts = site
        .names(many)
        .iter()
        .fold(String::new(), |all, host| format!("{all}{host}/ web\n{host}/api web\n"));
    let map = site.path(&format!("haproxy-{many}.map"));
    fs::write(&map, hosts)?;
    let config = format!(
        "global\n  nbthread 1\n  maxconn 8192\n  log stdout format raw local0\n  \
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
        pem = site.path("tls.pem").display(),
        map = map.display(),
        backend = site.backend,
    );
    let file = site.path(&format!("haproxy-{many}.cfg"));
    fs::write(&file, config)?;
    let log = format!("haproxy-{many}.log");
    spawn(site, PROXY_CORE, &log, words(&format!("haproxy -db -f {}", file.display())))
}

fn caddy(site: &Site, many: bool, port: u16) -> Result<Child> {
    let hosts: Vec<String> =
        site.names(many).iter().map(|it| format!("https://{it}:{port}")).collect();
    let log = site.path(&format!("caddy-{many}-access.log"));
    let config = format!(
        "{{\n  admin off\n  auto_https off\n  default_sni bench.test\n  servers {{\n    protocols h1 h2\n  }}\n}}\n{hosts} {{\n  \
         bind 127.0.0.1\n  tls {dir}/tls.crt {dir}/tls.key\n  log {{\n    output file {log} {{\n      \
         roll_disabled\n    }}\n  }}\n  reverse_proxy 127.0.0.1:{backend} {{\n    \
         header_up X-Request-ID {{http.request.uuid}}\n    header_up X-Real-IP {{remote_host}}\n  }}\n}}\n",
        hosts = hosts.join(", "),
        dir = site.directory.display(),
        log = log.display(),
        backend = site.backend,
    );
    let file = site.path(&format!("caddy-{many}.Caddyfile"));
    fs::write(&file, config)?;
    let command = format!("caddy run --adapter caddyfile --config {}", file.display());
    spawn(site, PROXY_CORE, &format!("caddy-{many}.log"), words(&command))
}
