//! A private registry: Debian's `docker-registry`, which asks for tokens, with `skopeo` as its client
//! and images made here, by hand.
//!
//! The server of tokens is a small stand-in, written here, for those that are really used
//! (`docker_auth` and the like).  It speaks the Docker registry token protocol as its specification
//! has it: the registry answers `401` with a realm, the client asks there with a password and brings
//! the signed token along.  Its key is its own; no certificate of TLS has to do with it.

use std::convert::Infallible;
use std::fs;
use std::io::{BufWriter, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

use super::client::Client;
use super::process::{Process, SOON, command, component, eventually, free_port};

/// What the realm is asked for in the name of, and who signs: the two sides must agree.
const SERVICE: &str = "registry.test";
const ISSUER: &str = "auth.test";

/// The one who may push and pull.
const USER: &str = "kit";
const PASSWORD: &str = "correct horse";

/// The name skopeo and the certificate use: it must resolve without any DNS.
pub const HOST: &str = "localhost";

/// Bytes made, or looked at, at once.
const PIECE: usize = 1 << 20;

/// Signs tokens; the registry trusts its certificate.
pub struct Signer {
    key: EcdsaKeyPair,
    certificate: rcgen::Certificate,
}

impl Signer {
    /// A new key, and a certificate for it.
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der());
        Self { key: key.unwrap(), certificate }
    }

    /// A JSON Web Token (RFC 7519) that grants `access` for five minutes.
    fn token(&self, access: &[Value]) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let header = json!({
            "typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(self.certificate.der())],
        });
        let claims = json!({
            "iss": ISSUER, "sub": USER, "aud": SERVICE,
            "iat": now, "nbf": now - 10, "exp": now + 300, "jti": now.to_string(),
            "access": access,
        });
        let [header, claims] = [header, claims].map(|it| URL_SAFE_NO_PAD.encode(it.to_string()));
        let signed = format!("{header}.{claims}");
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The stand-in for a server of tokens: `GET /auth`.
pub struct TokenServer {
    addr: SocketAddr,
    granted: Arc<AtomicUsize>,
    server: AbortHandle,
}

impl TokenServer {
    /// Serves on a free port of 127.0.0.1.
    pub async fn start(signer: Arc<Signer>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (addr, granted) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
        let count = Arc::clone(&granted);
        let server = tokio::spawn(async move {
            // Dropped with this task, and with it every connection.
            let mut connections = JoinSet::new();
            loop {
                let Ok((tcp, _)) = listener.accept().await else { continue };
                let (signer, count) = (Arc::clone(&signer), Arc::clone(&count));
                let service = service_fn(move |request| {
                    let reply = grant(&signer, &request);
                    count.fetch_add(usize::from(reply.status() == 200), Ordering::SeqCst);
                    async { Ok::<_, Infallible>(reply) }
                });
                let connection = http1::Builder::new().serve_connection(TokioIo::new(tcp), service);
                connections.spawn(connection);
            }
        });
        Self { addr, granted, server: server.abort_handle() }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many tokens were given out so far.
    pub fn granted(&self) -> usize {
        self.granted.load(Ordering::SeqCst)
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// All that was asked for, for who has the password; nothing for others.
fn grant(signer: &Signer, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let refused = |status| {
        let mut response = Response::new(Full::default());
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != "/auth" {
        return refused(StatusCode::NOT_FOUND);
    }
    let right = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    if request.headers().get(AUTHORIZATION).is_none_or(|it| it.as_bytes() != right.as_bytes()) {
        return refused(StatusCode::UNAUTHORIZED);
    }
    let query = decoded(request.uri().query().unwrap_or_default());
    let fields: Vec<_> = query.split('&').filter_map(|it| it.split_once('=')).collect();
    if !fields.contains(&("service", SERVICE)) {
        return refused(StatusCode::BAD_REQUEST);
    }
    let scopes = fields.iter().filter(|it| it.0 == "scope");
    let access: Vec<Value> = scopes.filter_map(|(_, scope)| access(scope)).collect();
    let token = signer.token(&access);
    let body = json!({ "token": token, "access_token": token, "expires_in": 300 });
    Response::new(Full::from(body.to_string()))
}

/// `repository:team/app:push,pull` as a token says it.
fn access(scope: &str) -> Option<Value> {
    let [kind, name, actions] = scope.split(':').collect::<Vec<_>>().try_into().ok()?;
    let actions: Vec<&str> = actions.split(',').collect();
    Some(json!({ "type": kind, "name": name, "actions": actions }))
}

/// Undoes the percent-encodings that a scope has: of `:`, `/` and `,`.
fn decoded(query: &str) -> String {
    query.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",")
}

/// A running registry; killed when dropped, its blobs removed.
pub struct Registry {
    addr: SocketAddr,
    process: Process,
    dir: TempDir,
}

impl Registry {
    /// Starts one that sends clients to `realm` for tokens that `signer` signs.
    pub async fn start(signer: &Signer, realm: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        fs::write(path("tokens.pem"), signer.certificate.pem()).unwrap();
        let config = json!({
            "version": 0.1,
            "log": { "level": "info" },
            "storage": { "filesystem": { "rootdirectory": path("blobs") } },
            "http": { "addr": addr.to_string(), "secret": "of this test" },
            "auth": { "token": {
                "realm": realm, "service": SERVICE, "issuer": ISSUER,
                "rootcertbundle": path("tokens.pem"),
            } },
        });
        // JSON is YAML.
        fs::write(path("config.yml"), config.to_string()).unwrap();
        let mut registry = command(component("LOCKGATE_DOCKER_REGISTRY"));
        registry.arg("serve").arg(path("config.yml"));
        let registry = Self { addr, process: Process::spawn(registry), dir };
        eventually("a registry", SOON, async || {
            let code = registry.process.exit_code();
            assert_eq!(code, None, "the registry ended:\n{}", registry.process.log());
            let reply = Client::new().get(&format!("http://{addr}/v2/")).await;
            reply.map(|it| assert_eq!(it.status, 401, "{}", it.text()))
        })
        .await;
        registry
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// An upload has begun and is not finished.
    pub fn is_receiving(&self) -> bool {
        let repositories = self.dir.path().join("blobs/docker/registry/v2/repositories");
        let repositories = fs::read_dir(repositories).into_iter().flatten().flatten();
        repositories
            .flat_map(|it| fs::read_dir(it.path().join("_uploads")))
            .any(|it| it.count() > 0)
    }
}

/// An image as a directory in the layout of the Open Container Initiative.
pub struct Image {
    dir: TempDir,
    digest: String,
}

impl Image {
    /// A new one whose layers have about this many bytes each, none of which can be compressed.
    pub fn random(layers: &[usize]) -> Self {
        let image = Self { dir: tempfile::tempdir().unwrap(), digest: String::new() };
        fs::create_dir_all(image.dir.path().join("blobs/sha256")).unwrap();
        let layers: Vec<Value> = layers.iter().map(|it| image.layer(*it)).collect();
        // Layers are not compressed, so that the digests of blob and content are the same.
        let ids: Vec<&Value> = layers.iter().map(|it| &it["digest"]).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": ids },
        });
        let config = image.blob(&config, "application/vnd.oci.image.config.v1+json");
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": layers,
        });
        let mut manifest = image.blob(&manifest, "application/vnd.oci.image.manifest.v1+json");
        let digest = manifest["digest"].as_str().unwrap().to_owned();
        manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        fs::write(image.dir.path().join("index.json"), index.to_string()).unwrap();
        let layout = json!({ "imageLayoutVersion": "1.0.0" });
        fs::write(image.dir.path().join("oci-layout"), layout.to_string()).unwrap();
        Self { digest, ..image }
    }

    /// That of the manifest, and so of all.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The file and the digest of its largest blob.
    pub fn largest(&self) -> (PathBuf, String) {
        let files = fs::read_dir(self.dir.path().join("blobs/sha256")).unwrap();
        let files = files.map(|it| it.unwrap());
        let largest = files.max_by_key(|it| it.metadata().unwrap().len()).unwrap();
        (largest.path(), format!("sha256:{}", largest.file_name().display()))
    }

    /// What its blobs really hold: their digests, read anew, in order.
    pub fn blobs(&self) -> Vec<String> {
        let files = fs::read_dir(self.dir.path().join("blobs/sha256")).unwrap();
        let mut digests: Vec<String> = files.map(|it| digest_of(&it.unwrap().path())).collect();
        digests.sort();
        digests
    }

    /// An archive with one file of `size` random bytes; gives its descriptor.
    fn layer(&self, size: usize) -> Value {
        let mut blob = Blob::create(self.dir.path());
        blob.write(&tar_header("random", size));
        let mut piece = vec![0; PIECE];
        let mut left = size;
        while left > 0 {
            let count = left.min(PIECE);
            rand::fill(&mut piece[..count]).unwrap();
            blob.write(&piece[..count]);
            left -= count;
        }
        // Files fill whole blocks of 512 bytes, and two empty ones end an archive.
        blob.write(&vec![0; size.next_multiple_of(512) - size + 1024]);
        blob.finish("application/vnd.oci.image.layer.v1.tar")
    }

    fn blob(&self, content: &Value, kind: &str) -> Value {
        let mut blob = Blob::create(self.dir.path());
        blob.write(content.to_string().as_bytes());
        blob.finish(kind)
    }
}

/// A file whose name will be its digest.
struct Blob {
    dir: PathBuf,
    file: BufWriter<fs::File>,
    hash: Context,
    size: usize,
}

impl Blob {
    fn create(layout: &Path) -> Self {
        let file = BufWriter::new(fs::File::create(layout.join("new")).unwrap());
        Self { dir: layout.to_owned(), file, hash: Context::new(&SHA256), size: 0 }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.file.write_all(bytes).unwrap();
        self.hash.update(bytes);
        self.size += bytes.len();
    }

    /// Gives its descriptor.
    fn finish(mut self, kind: &str) -> Value {
        self.file.flush().unwrap();
        let digest = hex(self.hash.finish().as_ref());
        fs::rename(self.dir.join("new"), self.dir.join("blobs/sha256").join(&digest)).unwrap();
        json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": self.size })
    }
}

/// The head of a file in an archive, as POSIX has it (`ustar`).
fn tar_header(name: &str, size: usize) -> [u8; 512] {
    let mut header = [0; 512];
    let mut put =
        |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644");
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size:011o}"));
    put(136, "00000000000");
    // While it is summed up, the field of the sum holds spaces.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|it| u32::from(*it)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    header
}

/// The SHA-256 of a file's content, in hex.
pub fn digest_of(path: &Path) -> String {
    let (mut file, mut hash) = (fs::File::open(path).unwrap(), Context::new(&SHA256));
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece).unwrap() {
            0 => return hex(hash.finish().as_ref()),
            count => hash.update(&piece[..count]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, it| text + &format!("{it:02x}"))
}

/// The client that people push and pull with; it knows no HTTP/2.
pub struct Skopeo {
    port: u16,
    password: &'static str,
    dir: Arc<TempDir>,
}

impl Skopeo {
    /// Asks the registry at `port` of [`HOST`] over TLS, and trusts `ca` alone.
    pub fn new(port: u16, ca: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("trust")).unwrap();
        fs::write(dir.path().join("trust/ca.crt"), ca).unwrap();
        Self { port, password: PASSWORD, dir: dir.into() }
    }

    /// The same, which says another password.
    #[must_use]
    pub fn password(self, password: &'static str) -> Self {
        Self { password, ..self }
    }

    /// Begins to push `image` as `repository`.
    pub fn push(&self, image: &Image, repository: &str) -> Copying {
        self.copy("dest", &layout(image.dir.path()), &self.remote(repository))
    }

    /// Pulls `repository`, and gives what came.
    pub async fn pull(&self, repository: &str, limit: Duration) -> Image {
        let dir = tempfile::tempdir().unwrap();
        let copying = self.copy("src", &self.remote(repository), &layout(dir.path()));
        copying.finish(limit).await;
        let index = fs::read(dir.path().join("index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        let digest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
        Image { dir, digest }
    }

    /// `far` is the side that is the registry: `src` or `dest`.
    fn copy(&self, far: &str, from: &str, to: &str) -> Copying {
        let mut skopeo = command(component("LOCKGATE_SKOPEO"));
        skopeo.args(["--insecure-policy", "copy", "--preserve-digests"]);
        skopeo.arg(format!("--{far}-cert-dir")).arg(self.dir.path().join("trust"));
        skopeo.arg(format!("--{far}-creds={USER}:{}", self.password)).args([from, to]);
        // Whatever it remembers of blobs, it is to remember here.
        skopeo.env("XDG_DATA_HOME", self.dir.path()).env("_CONTAINERS_ROOTLESS_UID", "1");
        Copying { process: Process::spawn(skopeo), _trust: Arc::clone(&self.dir) }
    }

    fn remote(&self, repository: &str) -> String {
        format!("docker://{HOST}:{}/{repository}:latest", self.port)
    }
}

/// The same registry by way of `curl`, which insists on HTTP/2.
pub struct Curl {
    base: String,
    ca: PathBuf,
    dir: TempDir,
}

impl Curl {
    /// As [`Skopeo::new`].
    pub fn new(port: u16, ca: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        fs::write(&path, ca).unwrap();
        Self { base: format!("https://{HOST}:{port}"), ca: path, dir }
    }

    /// Pushes the content of `file` as a blob of `repository`, in one piece.
    pub async fn push(&self, file: &Path, digest: &str, repository: &str, limit: Duration) {
        let token = self.token(repository).await;
        let begin = format!("{}/v2/{repository}/blobs/uploads/", self.base);
        let location = ["--write-out", "%header{location}"];
        let at = self.run(&["-XPOST", &begin, "-H", &token], &location, SOON).await;
        let file = file.display().to_string();
        let args = ["-XPATCH", &at, "-H", &token, "--upload-file", &file];
        let at = self.run(&args, &location, limit).await;
        let end = format!("{at}&digest={digest}");
        self.run(&["-XPUT", &end, "-H", &token], &[], limit).await;
    }

    /// Pulls a blob; gives the digest of what came.
    pub async fn pull(&self, digest: &str, repository: &str, limit: Duration) -> String {
        let token = self.token(repository).await;
        let file = self.dir.path().join("blob");
        let url = format!("{}/v2/{repository}/blobs/{digest}", self.base);
        let output = ["--output", &file.display().to_string()].map(str::to_owned);
        self.run(&[&url, "-H", &token], &output.each_ref().map(String::as_str), limit).await;
        format!("sha256:{}", digest_of(&file))
    }

    /// The field with a token for everything in `repository`.
    async fn token(&self, repository: &str) -> String {
        let scope = format!("scope=repository:{repository}:pull,push");
        let url = format!("{}/auth?service={SERVICE}&{scope}", self.base);
        let user = format!("{USER}:{PASSWORD}");
        let said = self.run(&["--user", &user, &url], &[], SOON).await;
        let said: Value = serde_json::from_str(&said).unwrap();
        format!("Authorization: Bearer {}", said["token"].as_str().unwrap())
    }

    /// What it says at its end, which must be a good one.
    async fn run(&self, args: &[&str], more: &[&str], limit: Duration) -> String {
        let mut curl = command("curl");
        curl.args(["--silent", "--show-error", "--fail-with-body", "--http2", "--cacert"]);
        curl.arg(&self.ca).args(args).args(more);
        let curl = Process::spawn(curl);
        assert_eq!(curl.wait(limit).await, 0, "curl said:\n{}", curl.log());
        curl.log()
    }
}

/// How skopeo names an image in a directory.
fn layout(dir: &Path) -> String {
    format!("oci:{}:latest", dir.display())
}

/// A push or a pull under way.
pub struct Copying {
    process: Process,
    _trust: Arc<TempDir>,
}

impl Copying {
    /// It has not ended yet.
    pub fn is_running(&self) -> bool {
        self.process.exit_code().is_none()
    }

    /// Waits for its end, which must be a good one.
    pub async fn finish(&self, limit: Duration) {
        assert_eq!(self.process.wait(limit).await, 0, "skopeo said:\n{}", self.process.log());
    }

    /// Waits for its end, which must be a bad one; gives what it said.
    pub async fn fail(&self, limit: Duration) -> String {
        assert_ne!(self.process.wait(limit).await, 0, "skopeo said:\n{}", self.process.log());
        self.process.log()
    }
}

mod checks {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_layer_is_an_archive_of_its_size() {
        for size in [0, 1, 512, 3 * PIECE + 7] {
            let image = Image::random(&[size]);
            let (layer, digest) = image.largest();
            assert_eq!(digest, format!("sha256:{}", digest_of(&layer)), "{size}");
            let listed = Command::new("tar").arg("-tvf").arg(layer).output().unwrap();
            let text = String::from_utf8_lossy(&listed.stdout);
            assert!(listed.status.success(), "{size}: {listed:?}");
            assert!(text.contains(&format!(" {size} ")) && text.contains("random"), "{text}");
        }
    }
}
