//! `lockgate demo`: everything on one machine, unprivileged, without a network.
//!
//! Serves the objects of `deploy/demo` with sample backends in this process and certificates from the
//! built-in CA. In a source checkout the files themselves are read and watched; elsewhere the copies
//! inside the program are.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::app::{self, Source};
use crate::args::{self, Command, Demo, Serve};

/// The objects as they were when the program was built.
const OBJECTS: [(&str, &str); 3] = [
    ("settings.yaml", include_str!("../deploy/demo/settings.yaml")),
    ("rotisserie.yaml", include_str!("../deploy/demo/rotisserie.yaml")),
    ("imagelayers.yaml", include_str!("../deploy/demo/imagelayers.yaml")),
];

/// A Service of the demo objects and what answers behind it.
struct Sample {
    namespace: &'static str,
    service: &'static str,
    /// The name of the Service's port.
    port: &'static str,
    content_type: &'static str,
    answer: fn(&str) -> String,
}

const SAMPLES: [Sample; 5] = [
    Sample {
        namespace: "rotisserie",
        service: "rotisserie-app",
        port: "rotisserie-app",
        content_type: "application/json",
        answer: |path| {
            format!("{{\"service\":\"rotisserie-app\",\"path\":{path:?},\"streams\":[]}}\n")
        },
    },
    Sample {
        namespace: "rotisserie",
        service: "rotisserie-static",
        port: "rotisserie-static",
        content_type: "text/html",
        answer: |_| "<!doctype html><title>rotisserie</title><h1>rotisserie</h1>\n".to_owned(),
    },
    Sample {
        namespace: "staging",
        service: "imagelayers-web",
        port: "http",
        content_type: "text/html",
        answer: |_| "<!doctype html><title>imagelayers</title><h1>imagelayers</h1>\n".to_owned(),
    },
    Sample {
        namespace: "staging",
        service: "imagelayers",
        port: "http",
        content_type: "application/json",
        answer: |path| format!("{{\"service\":\"imagelayers\",\"path\":{path:?},\"layers\":[]}}\n"),
    },
    Sample {
        namespace: "staging",
        service: "badger",
        port: "http",
        content_type: "image/svg+xml",
        answer: |_| {
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"90\" height=\"20\">\
             <text x=\"5\" y=\"15\">4 layers</text></svg>\n"
                .to_owned()
        },
    },
];

/// Runs the demo until Ctrl-C.
pub async fn run(demo: &Demo) -> anyhow::Result<()> {
    for port in [demo.http_port, demo.https_port, demo.healthz_port] {
        // Our own sockets would join others on the port; this one would not.
        std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .with_context(|| format!("port {port} is taken; choose others, see --help"))?;
    }
    let private = Private::make()?;
    let objects = if let Some(files) = checkout() {
        files
    } else {
        let copies = private.0.join("objects");
        std::fs::create_dir(&copies)?;
        for (name, text) in OBJECTS {
            std::fs::write(copies.join(name), text)?;
        }
        copies
    };
    let endpoints = private.0.join("endpoints");
    std::fs::create_dir(&endpoints)?;
    std::fs::write(endpoints.join("slices.yaml"), start_samples().await?)?;

    let serve = flags(demo)?;
    let issued = private.0.join("issued");
    let source = Source::Files { read: vec![objects.clone(), endpoints], write: issued.clone() };
    let authority = private.0.join("ca.crt");
    let greeting = greet(demo.clone(), objects, issued, authority);
    let serving = app::serve(&serve, source, CancellationToken::new());
    tokio::pin!(serving);
    tokio::select! {
        result = &mut serving => result,
        greeted = greeting => {
            greeted?;
            serving.await
        }
    }
}

/// The flags of `serve` that the demo stands for.
fn flags(demo: &Demo) -> anyhow::Result<Box<Serve>> {
    let argv = [
        "lockgate".to_owned(),
        "serve".to_owned(),
        "--bind=127.0.0.1".to_owned(),
        "--healthz-host=127.0.0.1".to_owned(),
        "--issuer=local".to_owned(),
        "--configmap=lockgate/lockgate".to_owned(),
        "--shutdown-grace-period=0".to_owned(),
        "--drain-timeout=1s".to_owned(),
        format!("--http-port={}", demo.http_port),
        format!("--https-port={}", demo.https_port),
        format!("--healthz-port={}", demo.healthz_port),
        format!("--external-http-port={}", demo.http_port),
        format!("--external-https-port={}", demo.https_port),
    ];
    match args::parse(argv).map_err(|told| anyhow::anyhow!(told.text))?.command {
        Command::Serve(serve) => Ok(serve),
        _ => anyhow::bail!("the arguments say serve"),
    }
}

/// `deploy/demo` of the source checkout we are in, if we are in one.
fn checkout() -> Option<PathBuf> {
    let here = std::env::current_dir().ok()?;
    let all = here.ancestors().map(|it| it.join("deploy/demo"));
    all.into_iter().find(|it| it.join("rotisserie.yaml").is_file())
}

/// A directory that only this user may read, removed at the end.
struct Private(PathBuf);

impl Private {
    fn make() -> anyhow::Result<Self> {
        let random: u64 = rand::random();
        let path = std::env::temp_dir().join(format!("lockgate-demo-{random:016x}"));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // What cannot be removed is told by its name, which was printed.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Starts the backends; gives the EndpointSlices that lead to them.
async fn start_samples() -> anyhow::Result<String> {
    let mut slices = String::new();
    for sample in &SAMPLES {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let Sample { namespace, service, port, .. } = sample;
        write!(
            slices,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
             metadata:\n  namespace: {namespace}\n  name: {service}\n  \
             labels: {{kubernetes.io/service-name: {service}}}\n\
             ports: [{{name: {port}, port: {number}, protocol: TCP}}]\n\
             endpoints: [{{addresses: [127.0.0.1], conditions: {{ready: true}}}}]\n",
            number = listener.local_addr()?.port(),
        )?;
        tokio::spawn(answer(listener, sample));
    }
    Ok(slices)
}

async fn answer(listener: TcpListener, sample: &'static Sample) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let service = service_fn(move |request: Request<Incoming>| async move {
            let text = (sample.answer)(request.uri().path());
            let mut answer = Response::new(Full::new(Bytes::from(text)));
            let headers = answer.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(sample.content_type));
            headers.insert("x-answered-by", HeaderValue::from_static(sample.service));
            if let Some(host) = request.headers().get(HOST) {
                headers.insert("x-asked-host", host.clone());
            }
            Ok::<_, Infallible>(answer)
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

/// Waits until the certificates are there, then says what to try.
async fn greet(
    demo: Demo,
    objects: PathBuf,
    issued: PathBuf,
    authority: PathBuf,
) -> anyhow::Result<()> {
    let secret = issued.join("lockgate.lockgate-local-ca.secret.json");
    while !write_authority(&secret, &authority)? || !is_ready(demo.healthz_port).await {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let Demo { http_port, https_port, healthz_port } = demo;
    let ca = authority.display();
    println!(
        "Lockgate is serving the objects in {objects}\n\
         Edit a file there and the routes change at once. Certificates and their CA are in\n\
         {private}, which goes when you stop this with Ctrl-C.\n\n\
         Try, from another terminal:\n\n  \
         curl --cacert {ca} https://rotisserie.localhost:{https_port}/current\n  \
         curl --cacert {ca} https://rotisserie.localhost:{https_port}/\n  \
         curl --cacert {ca} https://imagelayers.localhost:{https_port}/registry/images\n  \
         curl --cacert {ca} https://badge.imagelayers.localhost:{https_port}/\n  \
         curl -i http://rotisserie.localhost:{http_port}/current    # is sent to HTTPS\n  \
         curl http://localhost:{healthz_port}/api/routes            # what is served, and why\n\n\
         Status page: http://localhost:{healthz_port}/\n",
        objects = objects.display(),
        private = authority.parent().unwrap_or(Path::new("")).display(),
    );
    Ok(())
}

/// Whether every certificate of the demo is served.
async fn is_ready(port: u16) -> bool {
    let Ok(stream) = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
        return false;
    };
    let exchange = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        let request = Request::get("/api/certificates")
            .header(HOST, "localhost")
            .body(http_body_util::Empty::<Bytes>::new())
            .ok()?;
        let answer = sender.send_request(request).await.ok()?;
        let body = http_body_util::BodyExt::collect(answer.into_body()).await.ok()?.to_bytes();
        let found: serde_json::Value = serde_json::from_slice(&body).ok()?;
        let served = found["served"].as_array()?.len();
        let managed = found["managed"].as_array()?;
        let names: usize =
            managed.iter().filter_map(|it| it["names"].as_array().map(Vec::len)).sum();
        Some(names > 0 && served >= names)
    };
    exchange.await.unwrap_or(false)
}

/// Writes the CA's certificate to a file of its own, for curl; says whether there is one yet.
fn write_authority(secret: &Path, authority: &Path) -> anyhow::Result<bool> {
    let Ok(text) = std::fs::read_to_string(secret) else { return Ok(false) };
    let object: serde_json::Value = serde_json::from_str(&text)?;
    let encoded = object["data"]["ca.crt"].as_str().unwrap_or_default();
    std::fs::write(authority, BASE64_STANDARD.decode(encoded)?)?;
    Ok(true)
}
