//! Traces: endpoints are told which span caused their request, and a collector of the span.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::harness::backend::Backend;
use crate::harness::client::{Call, Reply};
use crate::harness::collector::Collector;
use crate::harness::lockgate::{
    Lockgate, Start, backend, config_map, ingress, ingress_class, service,
};
use crate::harness::process::{SOON, eventually, free_port};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// The product with spans for a collector that is to be at `collector`.
struct House {
    objects: String,
    collector: SocketAddr,
    web: Backend,
}

impl House {
    async fn new() -> Self {
        let web = Backend::start("web").await;
        let host = |name: &str, to: &str, annotations: &[(&str, &str)]| {
            let open = [("ssl-redirect", "false")];
            let paths = [("/shop", "Prefix", to, 80)];
            ingress(name, &format!("{name}.test"), &paths, &[&open, annotations].concat())
        };
        let on = ("enable-opentelemetry", "true");
        let objects = [
            ingress_class(),
            host("one", "web", &[on]),
            host("named", "web", &[on, ("opentelemetry-operation-name", "$request_method $uri")]),
            host("wary", "web", &[on, ("opentelemetry-trust-incoming-span", "false")]),
            host("empty", "nobody", &[on]),
            host("bare", "web", &[]),
            service("nobody", 80),
            backend("web", 80, &[web.addr()]),
        ];
        let collector = SocketAddr::from(([127, 0, 0, 1], free_port()));
        Self { objects: objects.concat(), collector, web }
    }

    /// All objects, with more settings.
    fn objects(&self, settings: &[(&str, &str)]) -> String {
        let (host, port) = (self.collector.ip().to_string(), self.collector.port().to_string());
        let usual = [
            ("otlp-collector-host", &*host),
            ("otlp-collector-port", &*port),
            ("otel-service-name", "edge"),
            ("otel-schedule-delay-millis", "50"),
        ];
        let usual = usual.into_iter().filter(|it| settings.iter().all(|more| more.0 != it.0));
        let all: Vec<_> = usual.chain(settings.iter().copied()).collect();
        self.objects.clone() + &config_map("settings", &all)
    }

    fn lockgate(&self, settings: &[(&str, &str)]) -> Start {
        Lockgate::with_manifests(self.objects(settings)).args(["--configmap=demo/settings"])
    }
}

/// What the endpoint was told: the trace, the span and the flags.
fn told(reply: &Reply) -> [String; 3] {
    let told = reply.told("traceparent").unwrap_or_else(|| panic!("{}", reply.text()));
    let parts: Vec<_> = told.split('-').map(str::to_owned).collect();
    let [version, trace, span, flags] = parts.try_into().unwrap();
    assert_eq!((&*version, trace.len(), span.len()), ("00", 32, 16), "{told}");
    [trace, span, flags]
}

fn with_parent(url: &str, flags: &str) -> Call {
    let said = format!("00-{TRACE}-{PARENT}-{flags}");
    Call::get(url).header("traceparent", &said).header("tracestate", "a=1,b=2")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_a_span_of_its_trace() {
    let house = House::new().await;
    let collector = Collector::start_on(house.collector).await;
    let lockgate = house.lockgate(&[]).start().await;
    lockgate.no_problem().await;
    for (client, mut connection) in lockgate.connections("one").await {
        // The client's trace.
        let call = with_parent("http://one.test/shop/a?b=c", "01").header("user-agent", "me");
        let reply = connection.send(call).await.unwrap();
        let [trace, span, flags] = told(&reply);
        assert_eq!((&*trace, &*flags), (TRACE, "01"), "{client}");
        assert_ne!(span, PARENT, "{client}");
        assert_eq!(reply.told("tracestate").as_deref(), Some("a=1,b=2"), "{client}");
        let found = collector.span(&span).await;
        for (key, expected) in
            [("trace", TRACE), ("parent", PARENT), ("state", "a=1,b=2"), ("name", "/shop")]
        {
            assert_eq!(found[key], expected, "{client} {key}: {found}");
        }
        // SPAN_KIND_SERVER; sampled, of a remote parent; not failed.
        assert_eq!(found["kind"], 2, "{client}: {found}");
        assert_eq!(found["flags"], 0x301, "{client}: {found}");
        assert_eq!(found["status"], 0, "{client}: {found}");
        assert_eq!(found["resource"]["service.name"], "edge", "{client}: {found}");
        let flavor = if client == "HTTP/2" { "2.0" } else { "1.1" };
        for (name, expected) in [
            ("http.method", "GET"),
            ("http.target", "/shop/a?b=c"),
            ("http.flavor", flavor),
            ("http.user_agent", "me"),
            ("http.server_name", "one.test"),
            ("http.route", "/shop"),
            ("net.peer.ip", "127.0.0.1"),
            ("ingress.namespace", "demo"),
            ("ingress.name", "one"),
            ("ingress.service_name", "web"),
            ("ingress.upstream", "demo-web-80"),
        ] {
            assert_eq!(found["attributes"][name], expected, "{client} {name}: {found}");
        }
        assert_eq!(found["attributes"]["http.status_code"], 200, "{client}: {found}");
        let [began, ended] = ["began", "ended"].map(|it| found[it].as_u64().unwrap());
        assert!(began < ended && ended - began < 20_000_000_000, "{client}: {found}");

        // Without one it begins here; what was said of no trace is not passed on.
        for call in [
            Call::get("http://one.test/shop"),
            Call::get("http://one.test/shop").header("tracestate", "a=1"),
            Call::get("http://one.test/shop")
                .header("traceparent", "00-nothing")
                .header("tracestate", "a=1"),
        ] {
            let reply = connection.send(call).await.unwrap();
            let [trace, span, _] = told(&reply);
            assert_ne!(trace, TRACE, "{client}");
            assert_eq!(reply.told("tracestate"), None, "{client}");
            let found = collector.span(&span).await;
            assert_eq!(
                (&found["trace"], &found["parent"]),
                (&trace.into(), &"".into()),
                "{client}"
            );
            assert_eq!(found["flags"], 0x101, "{client}: {found}");
        }

        // Who began the trace does not want it told.
        let reply = connection.send(with_parent("http://one.test/shop", "00")).await.unwrap();
        let [trace, untold, flags] = told(&reply);
        assert_eq!((&*trace, &*flags), (TRACE, "00"), "{client}");
        let reply = connection.send(with_parent("http://one.test/shop", "01")).await.unwrap();
        collector.span(&told(&reply)[1]).await;
        assert!(collector.spans().iter().all(|it| it["span"] != untold), "{client}");
    }
    let client = lockgate.client();
    let reply = client.request(with_parent("http://named.test/shop/x?y", "01")).await.unwrap();
    let [trace, span, _] = told(&reply);
    assert_eq!(trace, TRACE);
    assert_eq!(collector.span(&span).await["name"], "GET /shop/x");

    // Whoever is not believed gets a trace of ours.
    let reply = client.request(with_parent("http://wary.test/shop", "00")).await.unwrap();
    let [trace, span, flags] = told(&reply);
    assert!(trace != TRACE && flags == "01", "{trace} {flags}");
    assert_eq!(reply.told("tracestate"), None);
    assert_eq!(collector.span(&span).await["parent"], "");

    // Nobody is there: that is a failure.
    let reply = client.request(with_parent("http://empty.test/shop", "01")).await.unwrap();
    assert_eq!(reply.status, 503);
    let failed = eventually("a failed span", SOON, async || {
        collector.spans().into_iter().find(|it| it["attributes"]["ingress.name"] == "empty")
    });
    let failed = failed.await;
    assert_eq!(failed["status"], 2, "{failed}");
    assert_eq!(failed["attributes"]["http.status_code"], 503, "{failed}");

    // Where there are no spans nothing is touched.
    let said = format!("00-{TRACE}-{PARENT}-01");
    let reply = client.request(with_parent("http://bare.test/shop", "01")).await.unwrap();
    assert_eq!(reply.told("traceparent"), Some(said));
    assert_eq!(reply.told("tracestate").as_deref(), Some("a=1,b=2"));
    assert!(collector.spans().iter().all(|it| it["attributes"]["ingress.name"] != "bare"));
    assert!((lockgate.metric("lockgate_spans_lost_total", &[]).await).abs() < 0.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sampler_chooses_traces() {
    let house = House::new().await;
    let collector = Collector::start_on(house.collector).await;
    let ratio = |it| [("otel-sampler", "TraceIdRatioBased"), ("otel-sampler-ratio", it)];
    let lockgate = house.lockgate(&ratio("0")).start().await;
    let client = lockgate.client();
    for _ in 0..50 {
        let reply = client.get("http://one.test/shop").await.unwrap();
        assert_eq!(told(&reply)[2], "00");
    }
    // Who began the trace decides.
    let reply = client.request(with_parent("http://one.test/shop", "01")).await.unwrap();
    let [_, span, flags] = told(&reply);
    assert_eq!(flags, "01");
    collector.span(&span).await;
    assert_eq!(collector.spans().len(), 1);

    let changed = async |settings: &[(&str, &str)], call: &dyn Fn() -> Call, flags: &str| {
        lockgate.edit(house.objects(settings));
        eventually("other settings", SOON, async || {
            let reply = client.request(call()).await.unwrap();
            told(&reply)[2] == flags
        })
        .await;
    };
    let bare = || Call::get("http://one.test/shop");
    changed(&ratio("1"), &bare, "01").await;
    let mut spans = Vec::new();
    for _ in 0..50 {
        let reply = client.get("http://one.test/shop").await.unwrap();
        let [_, span, flags] = told(&reply);
        assert_eq!(flags, "01");
        spans.push(span);
    }
    for span in spans {
        collector.span(&span).await;
    }
    changed(&[("otel-sampler", "AlwaysOff")], &bare, "00").await;
    // Nor does who began the trace decide, where that is said.
    let unheard = [("otel-sampler", "AlwaysOff"), ("otel-sampler-parent-based", "false")];
    changed(&unheard, &|| with_parent("http://one.test/shop", "01"), "00").await;
}

/// Whatever becomes of the collector, requests do not notice, and what it misses is counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_holds_up_nobody() {
    let house = House::new().await;
    let few = [("otel-max-queuesize", "20"), ("otel-max-export-batch-size", "10")];
    let lockgate = house.lockgate(&few).start().await;
    let client = lockgate.client();
    let lost = async || lockgate.metric("lockgate_spans_lost_total", &[]).await;
    let many = async |what: &str| {
        let begun = Instant::now();
        for _ in 0..200 {
            let reply = client.get("http://one.test/shop").await.unwrap();
            assert_eq!(reply.status, 200, "{what}");
            told(&reply);
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {:?}", begun.elapsed());
    };
    // Away.
    many("away").await;
    eventually("lost spans", SOON, async || lost().await >= 180.0).await;

    // There: it is found.
    let collector = Collector::start_on(house.collector).await;
    let arrives = async |collector: &Collector| {
        eventually("a span", Duration::from_secs(60), async || {
            let reply = client.get("http://one.test/shop").await.unwrap();
            let span = &told(&reply)[1];
            let found = || collector.spans().iter().any(|it| it["span"] == **span);
            tokio::time::timeout(Duration::from_secs(1), async {
                eventually("it", SOON, async || found()).await;
            })
            .await
            .is_ok()
        })
        .await;
    };
    arrives(&collector).await;

    // There, and says nothing.
    let before = lost().await;
    collector.process().signal("STOP");
    many("stopped").await;
    eventually("lost spans", SOON, async || lost().await >= before + 150.0).await;
    collector.process().signal("CONT");
    arrives(&collector).await;

    // Killed, and back.
    collector.process().kill();
    many("killed").await;
    let collector = Collector::start_on(house.collector).await;
    arrives(&collector).await;
    assert!(house.web.requests() > 600);
}

/// The last spans are sent before the end, however long they would wait for others.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_leaves_no_span_behind() {
    let house = House::new().await;
    let collector = Collector::start_on(house.collector).await;
    let slow = [("otel-schedule-delay-millis", "3600000")];
    let lockgate = house.lockgate(&slow).args(["--shutdown-grace-period=0"]).start().await;
    let mut spans = Vec::new();
    for _ in 0..5 {
        let reply = lockgate.client().get("http://one.test/shop").await.unwrap();
        spans.push(told(&reply)[1].clone());
    }
    assert_eq!(collector.spans().len(), 0);
    lockgate.signal("TERM");
    assert_eq!(lockgate.wait(SOON).await, 0);
    for span in spans {
        collector.span(&span).await;
    }
}

/// Spans that have nowhere to go are told, to whom it concerns; endpoints hear of traces all the same.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_traces_go_on() {
    let house = House::new().await;
    let nowhere = [("otlp-collector-host", "")];
    let lockgate = house.lockgate(&nowhere).start().await;
    let text = lockgate.problem("NoCollector").await;
    assert!(text.contains("otlp-collector-host"), "{text}");
    let call = with_parent("http://one.test/shop", "01");
    let [trace, span, flags] = told(&lockgate.client().request(call).await.unwrap());
    assert!(trace == TRACE && span != PARENT && flags == "01", "{trace} {span} {flags}");

    // Everybody's, by the ConfigMap.
    lockgate.edit(house.objects(&[nowhere[0], ("enable-opentelemetry", "true")]));
    let text = lockgate.problem("BadSetting").await;
    assert!(text.contains("otlp-collector-host"), "{text}");
    told(&lockgate.client().get("http://bare.test/shop").await.unwrap());
    lockgate.edit(house.objects(&[("enable-opentelemetry", "true")]));
    lockgate.no_problem().await;
    assert!((lockgate.metric("lockgate_spans_lost_total", &[]).await).abs() < 0.5);
}
