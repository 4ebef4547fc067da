//! A private registry behind the product: layers of any size pass without being kept, tokens come from
//! a server beside it, and nothing has to be started in any order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use crate::harness::client::Client;
use crate::harness::lockgate::{
    Authority, Lockgate, Pair, backend, ingress_class, ingress_tls, tls_secret,
};
use crate::harness::process::{SOON, eventually, free_port};
use crate::harness::registry::{Curl, HOST, Image, Registry, Signer, Skopeo, TokenServer};

const MIB: usize = 1 << 20;

/// How much more memory any number of layers may take while they pass.
const GROWTH: u64 = 32 << 20;

/// For a push or a pull of some hundred megabytes, on a machine that compiles at the same time.
const PATIENCE: Duration = Duration::from_mins(3);

/// What the registry's people write: one host, the server of tokens beside the registry.
fn objects(pair: &Pair, tokens: &[SocketAddr], registry: &[SocketAddr]) -> String {
    let paths = [("/v2", "Prefix", "registry", 5000), ("/auth", "Prefix", "tokens", 5001)];
    let unlimited = [("nginx.ingress.kubernetes.io/proxy-body-size", "0")];
    let objects = [
        ingress_class(),
        ingress_tls("registry", HOST, &paths, &unlimited, "tls"),
        tls_secret("tls", pair),
        backend("registry", 5000, registry),
        backend("tokens", 5001, tokens),
    ];
    objects.concat()
}

/// All of it running.
struct House {
    authority: Authority,
    tokens: TokenServer,
    registry: Registry,
    lockgate: Lockgate,
}

impl House {
    async fn new() -> Self {
        let (authority, signer, port) = (Authority::new(), Arc::new(Signer::new()), free_port());
        let realm = format!("https://{HOST}:{port}/auth");
        let registry = Registry::start(&signer, &realm).await;
        let tokens = TokenServer::start(signer).await;
        let yaml = objects(&authority.issue(&[HOST]), &[tokens.addr()], &[registry.addr()]);
        let lockgate = Lockgate::with_manifests(yaml).https_port(port).start().await;
        Self { authority, tokens, registry, lockgate }
    }

    fn skopeo(&self) -> Skopeo {
        Skopeo::new(self.lockgate.https.port(), self.authority.pem())
    }

    /// What its people write, with a new certificate.
    fn objects(&self) -> String {
        let pair = self.authority.issue(&[HOST]);
        objects(&pair, &[self.tokens.addr()], &[self.registry.addr()])
    }

    /// The product's memory after a small image has passed, so that nothing of the program itself has
    /// to be loaded any more.
    async fn warm(&self) -> u64 {
        self.skopeo().push(&Image::random(&[MIB]), "small").finish(SOON).await;
        self.skopeo().pull("small", SOON).await;
        self.lockgate.memory()
    }

    /// The product never needed much more memory than it had `before`.
    #[track_caller]
    fn assert_small(&self, before: u64) {
        let growth = self.lockgate.memory_peak().saturating_sub(before);
        assert!(growth <= GROWTH, "{growth} bytes more");
    }
}

/// Images that together are many times what may be kept pass in both directions, whole.
#[tokio::test(flavor = "multi_thread")]
async fn images_of_any_size_pass_in_little_memory() {
    let house = House::new().await;
    let (skopeo, before) = (house.skopeo(), house.warm().await);
    let image = Image::random(&[300 * MIB, 1000]);
    skopeo.push(&image, "large").finish(PATIENCE).await;
    assert_same(&image, &skopeo.pull("large", PATIENCE).await);

    let names = ["one", "two", "three", "four"];
    let images = names.map(|_| Image::random(&[64 * MIB, MIB]));
    let pushes: Vec<_> =
        names.iter().zip(&images).map(|(it, image)| skopeo.push(image, it)).collect();
    for push in pushes {
        push.finish(PATIENCE).await;
    }
    let pulled = join_all(names.map(|it| skopeo.pull(it, PATIENCE))).await;
    for (image, pulled) in images.iter().zip(&pulled) {
        assert_same(image, pulled);
    }
    house.assert_small(before);
    assert!(house.tokens.granted() >= 10, "a token for each push and each pull");
}

/// Over HTTP/2 the same, where flow control is what keeps the memory small.
#[tokio::test(flavor = "multi_thread")]
async fn layers_of_any_size_pass_over_http2() {
    let house = House::new().await;
    let curl = Curl::new(house.lockgate.https.port(), house.authority.pem());
    let before = house.warm().await;
    let image = Image::random(&[300 * MIB]);
    let (file, digest) = image.largest();
    curl.push(&file, &digest, "large", PATIENCE).await;
    assert_eq!(curl.pull(&digest, "large", PATIENCE).await, digest);
    house.assert_small(before);
    eventually("six lines of good answers", SOON, async || {
        let log = house.lockgate.stdout();
        let curls: Vec<_> = log.lines().filter(|it| it.contains("\"curl/")).collect();
        let good = curls.iter().all(|it| it.contains(" HTTP/2.0\" 20"));
        if good && curls.len() == 6 { Ok(()) } else { Err(curls.join("\n")) }
    })
    .await;
}

/// The registry's own refusals reach the client, and nothing is open that should not be.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_token_gets_nothing() {
    let house = House::new().await;
    let image = Image::random(&[MIB]);
    let said = house.skopeo().password("guessed").push(&image, "theirs").fail(SOON).await;
    assert!(said.contains("unauthorized") || said.contains("invalid username"), "{said}");
    let client = Client::new().ca(house.authority.pem()).connect_to(house.lockgate.https);
    let reply = client.get(&format!("https://{HOST}/v2/")).await.unwrap();
    assert_eq!(reply.status, 401);
    let challenge = reply.header("www-authenticate").unwrap_or_default();
    let realm = format!("realm=\"https://{HOST}:{}/auth\"", house.lockgate.https.port());
    assert!(challenge.starts_with("Bearer ") && challenge.contains(&realm), "{challenge}");
    assert_eq!(house.tokens.granted(), 0);
}

/// What has to run, in whatever order it comes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Proxy,
    Tokens,
    Registry,
}

/// Nobody has to start the three in a certain order: what is not there yet is a 503 until it is.
#[tokio::test(flavor = "multi_thread")]
async fn the_parts_start_in_any_order() {
    use Part::{Proxy, Registry as Blobs, Tokens};
    let image = Image::random(&[MIB]);
    for order in [
        [Proxy, Tokens, Blobs],
        [Proxy, Blobs, Tokens],
        [Tokens, Proxy, Blobs],
        [Tokens, Blobs, Proxy],
        [Blobs, Proxy, Tokens],
        [Blobs, Tokens, Proxy],
    ] {
        let (authority, signer, port) = (Authority::new(), Arc::new(Signer::new()), free_port());
        let realm = format!("https://{HOST}:{port}/auth");
        let pair = authority.issue(&[HOST]);
        let (mut tokens, mut registry, mut lockgate) = (None, None, None);
        for part in order {
            match part {
                Part::Tokens => tokens = Some(TokenServer::start(Arc::clone(&signer)).await),
                Part::Registry => registry = Some(Registry::start(&signer, &realm).await),
                Part::Proxy => {}
            }
            // What the cluster would say of the endpoints now.
            let yaml = objects(
                &pair,
                tokens.as_ref().map(TokenServer::addr).as_slice(),
                registry.as_ref().map(Registry::addr).as_slice(),
            );
            if part == Part::Proxy {
                let start = Lockgate::with_manifests(yaml).https_port(port);
                lockgate = Some(start.start().await);
            } else if let Some(lockgate) = &lockgate {
                lockgate.edit(yaml);
            }
            let Some(lockgate) = &lockgate else { continue };
            let client = Client::new().ca(authority.pem()).connect_to(lockgate.https);
            for (path, there) in [("/auth", tokens.is_some()), ("/v2/", registry.is_some())] {
                let (url, expected) =
                    (format!("https://{HOST}{path}"), if there { 401 } else { 503 });
                eventually(&format!("{expected} at {path}, {order:?}"), SOON, async || {
                    client.get(&url).await.is_ok_and(|it| it.status == expected)
                })
                .await;
            }
        }
        let skopeo = Skopeo::new(port, authority.pem());
        skopeo.push(&image, "app").finish(SOON).await;
        assert_same(&image, &skopeo.pull("app", SOON).await);
    }
}

/// A certificate that is renewed costs no push: what is under way goes on, what is new sees the new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_replaced_during_a_push() {
    let house = House::new().await;
    let client = Client::new().ca(house.authority.pem()).connect_to(house.lockgate.https);
    let url = format!("https://{HOST}/");
    let serial = async || client.connect(&url).await.map(|it| it.serial().unwrap());
    let image = Image::random(&[300 * MIB, 64 * MIB, 64 * MIB]);
    let mut shown = serial().await.unwrap();
    let push = house.skopeo().push(&image, "app");
    eventually("an upload", SOON, async || house.registry.is_receiving()).await;
    let mut replaced = 0;
    while push.is_running() {
        house.lockgate.edit(house.objects());
        shown = eventually("the new certificate", SOON, async || {
            serial().await.ok().filter(|it| *it != shown)
        })
        .await;
        replaced += usize::from(push.is_running());
    }
    push.finish(PATIENCE).await;
    assert!(replaced > 0, "the push was over too soon");
    assert_same(&image, &house.skopeo().pull("app", PATIENCE).await);
}

#[track_caller]
fn assert_same(pushed: &Image, pulled: &Image) {
    assert_eq!(pulled.digest(), pushed.digest());
    assert_eq!(pulled.blobs(), pushed.blobs());
}
