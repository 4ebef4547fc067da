//! A Kubernetes API of a test's own: etcd and a real kube-apiserver, with RBAC, on loopback.
//!
//! No controllers run: nothing fills in endpoints, finishes the deletion of a namespace or makes
//! default service accounts.  Every user reaches the API through a proxy of its own (see
//! [`super::apiproxy`]), so that a test can break it for one and not for another; `kubectl` and the
//! JSON calls here go through one that nobody breaks.

use std::{
    fs,
    io::{Seek, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    apiproxy::{ApiProxy, Failure, Faults, Identity, LoopbackClient},
    lockgate::{Lockgate, NAMESPACE, Start},
    process::{Process, command, component, eventually, free_port, lock},
};

/// The users every cluster knows; `admin` may do everything, the others nothing until a test binds
/// them to a role.
pub const USERS: [&str; 5] = ["admin", "lockgate", "lockgate-b", "lockgate-c", "nobody"];

/// For a start: a cold machine that compiles at the same time is slow.
const READY: Duration = Duration::from_mins(2);

/// A running API server with its etcd; both end when it is dropped.
pub struct Cluster {
    /// Declared, and so dropped, before the directory it uses.
    apiserver: Mutex<Option<Process>>,
    _etcd: Process,
    /// What etcd keeps; gone after it.
    _data: TempDir,
    /// One per user, in the order of [`USERS`].
    fronts: Vec<ApiProxy>,
    /// The way of the test itself.
    own: ApiProxy,
    client: LoopbackClient,
    ports: Ports,
    minor: u32,
    dir: TempDir,
}

struct Ports {
    etcd: u16,
    apiserver: u16,
}

impl Cluster {
    /// Starts one and waits until it is ready, about five seconds.
    ///
    /// # Panics
    ///
    /// If a component is missing or does not get ready.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temp dir can be made");
        let identity = Identity::generate("lockgate test cluster");
        identity.write_to(dir.path());
        let tokens = USERS.map(|user| {
            let groups = if user == "admin" { ",system:masters" } else { "" };
            format!("{user}-token,{user},{user}{groups}\n")
        });
        fs::write(dir.path().join("tokens.csv"), tokens.concat()).expect("it can be written");

        let ports = Ports { etcd: free_port(), apiserver: free_port() };
        let minor = minor_version();
        let data = match std::env::var_os("LOCKGATE_ETCD_DATA") {
            Some(place) => TempDir::new_in(place),
            None => TempDir::new(),
        };
        let data = data.expect("there is room for a directory");
        let etcd = spawn_etcd(&data, ports.etcd);
        let mut fronts = Vec::new();
        for _ in USERS {
            fronts.push(front(&ports, &identity, minor).await);
        }
        let own = front(&ports, &identity, minor).await;
        let client = identity.client();
        let apiserver = Mutex::new(None);
        let cluster =
            Self { apiserver, _etcd: etcd, _data: data, fronts, own, client, ports, minor, dir };
        for user in USERS {
            cluster.write_kubeconfig(user, &cluster.front(user).url(), &token(user));
        }
        cluster.write_kubeconfig("own", &cluster.own.url(), &token("admin"));
        cluster.start_apiserver().await;
        cluster
    }

    /// Starts one and applies what `deploy/` ships around the program: its namespace, service
    /// account, rights, class and settings.  The namespace of sample objects is there, too.
    ///
    /// # Panics
    ///
    /// As [`Self::start`], or if the API refuses something.
    pub async fn installed() -> Self {
        let cluster = Self::start().await;
        // No Service of its own says where it is reached: the nodes do.
        let files = ["namespace", "serviceaccount", "rbac", "nodes", "ingressclass", "configmap"];
        let shipped = files.map(|file| format!("{}\n---\n", deploy(&format!("{file}.yaml"))));
        cluster.apply(&shipped.concat()).await;
        cluster.kubectl(&["create", "namespace", NAMESPACE]).await.expect("it can be created");
        eventually("the rights that were granted", READY, async || {
            // What is granted is known to who asks for it a moment later.
            cluster.may("list", "networking.k8s.io", "ingresses", "").await
                && cluster.may("create", "coordination.k8s.io", "leases", "lockgate").await
                && cluster.may("get", "", "nodes", "").await
                && cluster.may("list", "", "pods", "lockgate").await
        })
        .await;
        cluster
    }

    /// Whether the service account of the product may do this.
    pub async fn may(&self, verb: &str, group: &str, resource: &str, namespace: &str) -> bool {
        let attributes =
            json!({ "verb": verb, "group": group, "resource": resource, "namespace": namespace });
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": { "user": "system:serviceaccount:lockgate:lockgate", "resourceAttributes": attributes },
        });
        let answer =
            self.post_json("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await;
        answer["status"]["allowed"] == true
    }

    /// The product with the rights of the shipped service account and nothing beyond, by way of the
    /// proxy of `user`, which is its name among replicas, too.
    ///
    /// It looks often whether it leads, and ends without a grace period.
    ///
    /// # Panics
    ///
    /// Unless the cluster is an [`Self::installed`] one.
    pub async fn lockgate(&self, user: &str) -> Start {
        let kubeconfig = self.service_account("lockgate", "lockgate", user).await;
        let kubeconfig = kubeconfig.display().to_string();
        let args =
            ["--kubeconfig", &kubeconfig, "--configmap=lockgate/lockgate", "--pod-name", user];
        let more = ["--election-ttl=12s", "--shutdown-grace-period=0", "--drain-timeout=5s"];
        Lockgate::with_args(args).args(more)
    }

    /// The file a user, one of [`USERS`], reaches the cluster with, through the proxy it can fail.
    ///
    /// # Panics
    ///
    /// If there is no such user.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        assert!(USERS.contains(&user), "{user} is none of {USERS:?}");
        self.kubeconfig_path(user)
    }

    /// The same for a service account, which must exist: it may do what its bindings allow.
    ///
    /// It goes through the proxy of `user`, so that [`Self::faults_of`] that user apply to it.
    ///
    /// # Panics
    ///
    /// If the API gives no token for it.
    pub async fn service_account(&self, namespace: &str, name: &str, user: &str) -> PathBuf {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": { "expirationSeconds": 86_400 },
        });
        let answer = self.post_json(&path, &request).await;
        let token = answer["status"]["token"].as_str().expect("the answer has a token");
        let file = format!("{namespace}.{name}.{user}");
        self.write_kubeconfig(&file, &self.front(user).url(), token);
        self.kubeconfig_path(&file)
    }

    /// What user `lockgate` suffers and has asked.
    pub fn faults(&self) -> &Faults {
        self.faults_of("lockgate")
    }

    /// What one of [`USERS`] suffers and has asked.
    pub fn faults_of(&self, user: &str) -> &Faults {
        self.front(user).faults()
    }

    /// Runs `kubectl` as admin; `Err` has what it says on stderr.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        self.kubectl_with(args, "").await
    }

    /// The same with something on stdin.
    ///
    /// # Panics
    ///
    /// If `kubectl` cannot be run at all.
    pub async fn kubectl_with(&self, args: &[&str], stdin: &str) -> Result<String, String> {
        let mut input = tempfile::tempfile().expect("a temp file can be made");
        input.write_all(stdin.as_bytes()).expect("it can be written");
        input.rewind().expect("a file can be rewound");
        let mut kubectl = Command::new(component("LOCKGATE_KUBECTL"));
        kubectl
            .env("HOME", self.dir.path())
            .env("KUBECONFIG", self.kubeconfig_path("own"))
            .args(args)
            .stdin(Stdio::from(input));
        let run = tokio::task::spawn_blocking(move || kubectl.output()).await;
        let output = run.expect("the run does not panic").expect("kubectl can be started");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// `kubectl apply` of one or more YAML documents.
    ///
    /// # Panics
    ///
    /// If the API refuses one of them; [`Self::kubectl_with`] is for those it should refuse.
    pub async fn apply(&self, yaml: &str) {
        let applied = self.kubectl_with(&["apply", "-f", "-"], yaml).await;
        applied.unwrap_or_else(|error| panic!("kubectl apply: {error}"));
    }

    /// `kubectl delete`, such as `["ingress", "shop", "--namespace=x"]`, without waiting.
    ///
    /// # Panics
    ///
    /// If the API refuses it or there is nothing of that name.
    pub async fn delete(&self, what: &[&str]) {
        let deleted = self.kubectl(&[&["delete", "--wait=false"], what].concat()).await;
        deleted.unwrap_or_else(|error| panic!("kubectl delete: {error}"));
    }

    /// One call as admin: the status code and the JSON that came back.
    ///
    /// The content type goes by the method: a merge patch for `PATCH`.
    pub async fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value), Failure> {
        let url = format!("{}{path}", self.own.url());
        ask(&self.client, method, &url, body).await
    }

    /// What a path has, or nothing for a 404.
    ///
    /// # Panics
    ///
    /// If the API answers with another error.
    pub async fn get_json(&self, path: &str) -> Option<Value> {
        match self.call("GET", path, None).await {
            Ok((200, value)) => Some(value),
            Ok((404, _)) => None,
            other => panic!("GET {path}: {other:?}"),
        }
    }

    /// Creates an object and returns it as stored.
    ///
    /// # Panics
    ///
    /// If the API answers with an error.
    pub async fn post_json(&self, path: &str, body: &Value) -> Value {
        self.write("POST", path, body).await
    }

    /// Replaces an object and returns it as stored.
    ///
    /// # Panics
    ///
    /// If the API answers with an error.
    pub async fn put_json(&self, path: &str, body: &Value) -> Value {
        self.write("PUT", path, body).await
    }

    /// Merges into an object and returns it as stored.
    ///
    /// # Panics
    ///
    /// If the API answers with an error.
    pub async fn patch_json(&self, path: &str, body: &Value) -> Value {
        self.write("PATCH", path, body).await
    }

    /// Kills the API server; connections are refused until [`Self::start_apiserver`].
    pub fn kill_apiserver(&self) {
        drop(lock(&self.apiserver).take());
    }

    /// Starts the API server on what etcd has kept, and waits until it is ready.
    ///
    /// # Panics
    ///
    /// If it does not get ready.
    pub async fn start_apiserver(&self) {
        *lock(&self.apiserver) = Some(self.spawn_apiserver());
        // Not through a proxy: those may be cut.
        let base = format!("https://127.0.0.1:{}", self.ports.apiserver);
        eventually("a ready API server", READY, async || {
            let ended = lock(&self.apiserver).as_ref().and_then(Process::exit_code);
            assert_eq!(ended, None, "the API server ended:\n{}", self.apiserver_log());
            for path in ["/readyz", "/api/v1/namespaces/default"] {
                let (code, _) = ask(&self.client, "GET", &format!("{base}{path}"), None).await?;
                if code != 200 {
                    return Err(Failure::from(format!("{path} says {code}")));
                }
            }
            Ok(())
        })
        .await;
    }

    /// Kills the API server and starts it again.
    pub async fn restart_apiserver(&self) {
        self.kill_apiserver();
        self.start_apiserver().await;
    }

    /// Freezes the API server (SIGSTOP): it accepts and says nothing until [`Self::cont`].
    ///
    /// The proxies stay up.
    pub fn stop(&self) {
        self.signal("STOP");
    }

    /// Ends [`Self::stop`].
    pub fn cont(&self) {
        self.signal("CONT");
    }

    /// What the API server has written so far.
    pub fn apiserver_log(&self) -> String {
        lock(&self.apiserver).as_ref().map(Process::log).unwrap_or_default()
    }

    async fn write(&self, method: &str, path: &str, body: &Value) -> Value {
        match self.call(method, path, Some(body)).await {
            Ok((200..=299, value)) => value,
            other => panic!("{method} {path}: {other:?}"),
        }
    }

    fn signal(&self, name: &str) {
        lock(&self.apiserver).as_ref().expect("the API server runs").signal(name);
    }

    fn front(&self, user: &str) -> &ApiProxy {
        let place = USERS.iter().position(|it| *it == user);
        &self.fronts[place.unwrap_or_else(|| panic!("{user} is none of {USERS:?}"))]
    }

    fn kubeconfig_path(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.kubeconfig"))
    }

    /// JSON is YAML, so this is a kubeconfig.
    fn write_kubeconfig(&self, name: &str, url: &str, token: &str) {
        let ca = self.dir.path().join("ca.pem");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test",
                "cluster": { "server": url, "certificate-authority": ca } }],
            "users": [{ "name": "test", "user": { "token": token } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        });
        let path = self.kubeconfig_path(name);
        fs::write(path, config.to_string()).expect("the kubeconfig can be written");
    }

    fn spawn_apiserver(&self) -> Process {
        let mut apiserver = command(component("LOCKGATE_KUBE_APISERVER"));
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        let flags = [
            ("etcd-servers", format!("http://127.0.0.1:{}", self.ports.etcd)),
            ("bind-address", "127.0.0.1".to_owned()),
            // Loopback may not be advertised; this one never gets used.
            ("advertise-address", "192.0.2.254".to_owned()),
            ("endpoint-reconciler-type", "none".to_owned()),
            ("secure-port", self.ports.apiserver.to_string()),
            ("cert-dir", file("apiserver")),
            ("tls-cert-file", file("tls.pem")),
            ("tls-private-key-file", file("tls.key")),
            ("token-auth-file", file("tokens.csv")),
            ("authorization-mode", "RBAC".to_owned()),
            ("service-account-key-file", file("tls.pub")),
            ("service-account-signing-key-file", file("tls.key")),
            ("service-account-issuer", "https://kubernetes.default.svc".to_owned()),
            ("service-cluster-ip-range", "10.0.0.0/24".to_owned()),
            ("disable-admission-plugins", "ServiceAccount".to_owned()),
        ];
        apiserver.args(flags.map(|(name, value)| format!("--{name}={value}")));
        if (20..22).contains(&self.minor) {
            // On by default from 1.22 on, unknown before 1.20.
            apiserver.arg("--feature-gates=EndpointSliceTerminatingCondition=true");
        }
        Process::spawn(apiserver)
    }
}

/// A file of `deploy/`.
///
/// # Panics
///
/// If it cannot be read.
pub fn deploy(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

async fn front(ports: &Ports, identity: &Identity, minor: u32) -> ApiProxy {
    // 1.21 is the first to serve discovery.k8s.io/v1.
    ApiProxy::start(free_port(), ports.apiserver, identity, minor < 21).await
}

fn token(user: &str) -> String {
    format!("{user}-token")
}

fn spawn_etcd(data: &TempDir, port: u16) -> Process {
    let url = format!("http://127.0.0.1:{port}");
    let peers = format!("http://127.0.0.1:{}", free_port());
    let mut etcd = command(component("LOCKGATE_ETCD"));
    etcd.arg("--data-dir").arg(data.path());
    etcd.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
    etcd.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
    etcd.args(["--initial-cluster", &format!("default={peers}")]);
    etcd.args(["--log-outputs", "stderr", "--logger", "zap"]);
    Process::spawn(etcd)
}

/// 20 for `Kubernetes v1.20.2`; 0 if the program does not say.
fn minor_version() -> u32 {
    let output = Command::new(component("LOCKGATE_KUBE_APISERVER")).arg("--version").output();
    let output = output.expect("kube-apiserver can be started");
    let version = String::from_utf8_lossy(&output.stdout).into_owned();
    version.split('.').nth(1).and_then(|it| it.parse().ok()).unwrap_or(0)
}

async fn ask(
    client: &LoopbackClient,
    method: &str,
    url: &str,
    body: Option<&Value>,
) -> Result<(u16, Value), Failure> {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let body = body.map(Value::to_string).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(url)
        .header(header::AUTHORIZATION, format!("Bearer {}", token("admin")))
        .header(header::CONTENT_TYPE, kind)
        .body(Full::new(Bytes::from(body)))?;
    let response = client.request(request).await?;
    let code = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    // Health checks answer in plain text.
    Ok((code, serde_json::from_slice(&body).unwrap_or_default()))
}
