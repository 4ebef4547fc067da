//! gRPC, spoken by a client and servers that know nothing of the product.

use crate::harness::endpoint::Authority;
use crate::harness::grpc::{GrpcClient, GrpcServer};
use crate::harness::lockgate::{Lockgate, backend, ingress_class, ingress_tls, tls_secret};

/// The product before gRPC servers: `grpc.test` leads to them.
struct House {
    lockgate: Lockgate,
    servers: Vec<GrpcServer>,
    authority: Authority,
}

impl House {
    async fn new(count: usize, protocol: &str) -> Self {
        let authority = Authority::new("test");
        let mut servers = Vec::new();
        for _ in 0..count {
            servers.push(match protocol {
                "GRPC" => GrpcServer::start().await,
                _ => GrpcServer::secure(&authority.issue("web.demo.svc")).await,
            });
        }
        let addrs: Vec<_> = servers.iter().map(|it| it.addr).collect();
        let annotations = [
            ("nginx.ingress.kubernetes.io/backend-protocol", protocol),
            ("nginx.ingress.kubernetes.io/ssl-redirect", "false"),
            ("nginx.ingress.kubernetes.io/proxy-body-size", "0"),
        ];
        let objects = [
            ingress_class(),
            ingress_tls("web", "grpc.test", &[("/", "Prefix", "web", 80)], &annotations, "tls"),
            tls_secret("tls", &authority.issue("grpc.test")),
            backend("web", 80, &addrs),
        ];
        let lockgate = Lockgate::with_manifests(objects.concat()).start().await;
        Self { lockgate, servers, authority }
    }

    /// A client over TLS.
    fn client(&self) -> GrpcClient {
        let client = GrpcClient::new(self.lockgate.https, "grpc.test", Some(&self.authority));
        self.with_servers(client)
    }

    /// A client without TLS.
    fn plain_client(&self) -> GrpcClient {
        self.with_servers(GrpcClient::new(self.lockgate.http, "grpc.test", None))
    }

    fn with_servers(&self, client: GrpcClient) -> GrpcClient {
        let servers: Vec<_> = self.servers.iter().collect();
        client.servers(&servers, "web.demo.svc", &self.authority)
    }
}

/// Every kind of call works, from clients with and without TLS, and nothing of it waits for its end.
#[tokio::test(flavor = "multi_thread")]
async fn calls_of_every_kind_go_through() {
    calls_of_every_kind("GRPC").await;
}

/// So they do to servers with TLS.
#[tokio::test(flavor = "multi_thread")]
async fn calls_of_every_kind_go_through_over_tls() {
    calls_of_every_kind("GRPCS").await;
}

async fn calls_of_every_kind(protocol: &str) {
    let house = House::new(1, protocol).await;
    let secure = house.client().begin("kinds,errors,large");
    let plain = house.plain_client().begin("kinds,errors,large");
    secure.succeeds().await;
    plain.succeeds().await;
    house.lockgate.no_problem().await;
}

/// Whoever waits for a call no longer is not worked for any longer.
#[tokio::test(flavor = "multi_thread")]
async fn deadlines_reach_the_server() {
    let house = House::new(1, "GRPC").await;
    house.client().begin("deadlines").succeeds().await;
}

/// Calls that are given up, however many, disturb no others.
#[tokio::test(flavor = "multi_thread")]
async fn cancelled_calls_disturb_no_others() {
    let house = House::new(1, "GRPC").await;
    house.client().begin("cancels").succeeds().await;
}

/// A server that says it goes is left without a failed call but those it had no time for.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_gracefully_is_left() {
    let house = House::new(2, "GRPCS").await;
    println!("{}", house.client().begin("stops").succeeds().await);
}

/// A server that is killed and comes back on its address is called again.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_is_called_again() {
    let mut house = House::new(1, "GRPC").await;
    for _ in 0..2 {
        let run = house.client().begin("survives");
        run.says("calling").await;
        let server = house.servers.pop().unwrap();
        server.process().kill();
        house.servers.push(GrpcServer::start_on(server.addr, None).await);
        run.finish();
        println!("{}", run.succeeds().await);
    }
}
