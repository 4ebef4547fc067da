//! `lockgate demo`: the first thing anybody tries works as it says, anywhere, and leaves nothing behind.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::harness::client::Client;
use crate::harness::lockgate::without_settings;
use crate::harness::process::{Process, SOON, command, eventually, free_port};

/// A demo under way, in a working directory of its own.
struct Demo {
    process: Process,
    /// HTTP, HTTPS and health.
    ports: [u16; 3],
    /// The working directory.
    place: TempDir,
}

impl Demo {
    /// Starts it in `place`, on these ports.
    fn launch(place: TempDir, ports: [u16; 3]) -> Self {
        // The shell only changes the directory; it is replaced by the product.
        let mut command = command("sh");
        command.args(["-c", r#"cd "$PLACE" && exec "$0" "$@""#, env!("CARGO_BIN_EXE_lockgate")]);
        command.arg("demo");
        for (flag, port) in ["--http-port", "--https-port", "--healthz-port"].iter().zip(ports) {
            command.arg(flag).arg(port.to_string());
        }
        without_settings(&mut command);
        command.env("PLACE", place.path());
        Self { process: Process::spawn(command), ports, place }
    }

    /// Starts it and waits until it says what to try.
    async fn start(place: TempDir) -> Self {
        let demo = Self::launch(place, std::array::from_fn(|_| free_port()));
        eventually("the greeting", SOON, async || {
            assert_eq!(demo.process.exit_code(), None, "{}", demo.process.log());
            demo.process.log().contains("Status page:")
        })
        .await;
        demo
    }

    /// The words of what it printed.
    fn words(&self) -> Vec<String> {
        self.process.log().split_whitespace().map(str::to_owned).collect()
    }

    /// The CA's certificate, as the printed `curl` lines name it.
    fn ca(&self) -> PathBuf {
        let words = self.words();
        let at = words.iter().position(|it| it == "--cacert").expect("it prints curl lines");
        words[at + 1].as_str().into()
    }

    /// A client that trusts that CA and nobody else.
    fn client(&self) -> Client {
        let pem = std::fs::read_to_string(self.ca()).unwrap();
        Client::new().ca(&pem).connect_to(SocketAddr::from(([127, 0, 0, 1], self.ports[1])))
    }

    /// Who answers at a path of a host over HTTPS.
    async fn answered_by(&self, host: &str, path: &str) -> String {
        let reply = self.client().get(&format!("https://{host}{path}")).await.unwrap();
        assert_eq!(reply.status, 200, "{host}{path}: {}", reply.text());
        reply.header("x-answered-by").unwrap_or_default().to_owned()
    }

    /// Every route of both sample applications.
    async fn assert_serves(&self) {
        for (host, path, service) in [
            ("rotisserie.localhost", "/current", "rotisserie-app"),
            ("rotisserie.localhost", "/all", "rotisserie-app"),
            ("rotisserie.localhost", "/all/of/them", "rotisserie-app"),
            ("rotisserie.localhost", "/", "rotisserie-static"),
            ("rotisserie.localhost", "/allies", "rotisserie-static"),
            ("imagelayers.localhost", "/registry/images", "imagelayers"),
            ("imagelayers.localhost", "/badge/x.svg", "badger"),
            ("imagelayers.localhost", "/", "imagelayers-web"),
            ("badge.imagelayers.localhost", "/", "badger"),
        ] {
            assert_eq!(self.answered_by(host, path).await, service, "{host}{path}");
        }
    }

    /// Presses Ctrl-C and sees to it that nothing is left.
    async fn assert_ends_cleanly(&self) {
        let private = self.ca().parent().unwrap().to_owned();
        assert!(private.is_dir(), "{}", private.display());
        self.process.signal("INT");
        assert_eq!(self.process.wait(SOON).await, 0, "{}", self.process.log());
        assert!(!private.exists(), "{} is left", private.display());
        for port in self.ports {
            let bound = TcpListener::bind(("127.0.0.1", port)).await;
            assert!(bound.is_ok(), "port {port}: {bound:?}");
        }
    }
}

/// A checkout with nothing in it but the demo's objects.
fn checkout() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    let objects = place.path().join("deploy/demo");
    std::fs::create_dir_all(&objects).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/demo");
    for file in std::fs::read_dir(source).unwrap().flatten() {
        std::fs::copy(file.path(), objects.join(file.file_name())).unwrap();
    }
    place
}

/// What is printed can be tried; an edit of the files is what is served next; Ctrl-C ends it all.
#[tokio::test(flavor = "multi_thread")]
async fn the_demo_of_a_checkout_serves_and_follows_edits() {
    let demo = Demo::start(checkout()).await;
    demo.assert_serves().await;
    let [http, https, health] = demo.ports;
    let plain = Client::new().connect_to(SocketAddr::from(([127, 0, 0, 1], http)));
    let reply = plain.get(&format!("http://rotisserie.localhost:{http}/current")).await.unwrap();
    let secure = format!("https://rotisserie.localhost:{https}/current");
    assert_eq!((reply.status, reply.header("location")), (308, Some(&*secure)));
    let page = Client::new().get(&format!("http://127.0.0.1:{health}/")).await.unwrap();
    assert_eq!(page.status, 200);
    assert!(page.text().contains("rotisserie.localhost"), "{}", page.text());
    for url in demo.words().iter().filter(|it| it.starts_with("https://")) {
        let reply = demo.client().get(url).await.unwrap();
        assert_eq!(reply.status, 200, "{url}");
    }

    // The edit that the file itself suggests: /all goes to the other Service.
    let file = demo.place.path().join("deploy/demo/rotisserie.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let (rest, all) = text.rsplit_once("- path: /all").unwrap();
    let all = all.replace("rotisserie-app", "rotisserie-static").replace("3000", "8082");
    // As an editor does: whole at once.
    let draft = demo.place.path().join("draft");
    std::fs::write(&draft, format!("{rest}- path: /all{all}")).unwrap();
    std::fs::rename(&draft, &file).unwrap();
    eventually("the edit", SOON, async || {
        demo.answered_by("rotisserie.localhost", "/all").await == "rotisserie-static"
    })
    .await;
    assert_eq!(demo.answered_by("rotisserie.localhost", "/current").await, "rotisserie-app");
    demo.assert_ends_cleanly().await;
    let left: Vec<_> = std::fs::read_dir(demo.place.path().join("deploy/demo")).unwrap().collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

/// The program alone is enough: outside a checkout it serves the objects inside it.
#[tokio::test(flavor = "multi_thread")]
async fn the_demo_runs_from_anywhere() {
    let demo = Demo::start(tempfile::tempdir().unwrap()).await;
    demo.assert_serves().await;
    demo.assert_ends_cleanly().await;
    let left = std::fs::read_dir(demo.place.path()).unwrap().count();
    assert_eq!(left, 0, "it wrote into the working directory");
}

/// A taken port is said in one line, before anything is served.
#[tokio::test(flavor = "multi_thread")]
async fn the_demo_refuses_a_taken_port() {
    for taken in 0..3 {
        let ports = std::array::from_fn(|_| free_port());
        let _other = TcpListener::bind(("127.0.0.1", ports[taken])).await.unwrap();
        let demo = Demo::launch(tempfile::tempdir().unwrap(), ports);
        assert_ne!(demo.process.wait(SOON).await, 0);
        let said = demo.process.log();
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(&format!("port {}", ports[taken])), "{said}");
    }
}

/// A second demo does not quietly share the ports of the first.
#[tokio::test(flavor = "multi_thread")]
async fn two_demos_do_not_share_ports() {
    let first = Demo::start(tempfile::tempdir().unwrap()).await;
    let second = Demo::launch(tempfile::tempdir().unwrap(), first.ports);
    assert_ne!(second.process.wait(SOON).await, 0);
    assert_eq!(second.process.log().lines().count(), 1, "{}", second.process.log());
    first.assert_serves().await;
    first.assert_ends_cleanly().await;
}
