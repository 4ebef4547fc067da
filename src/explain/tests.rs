//! What people read, word for word.
#![expect(clippy::needless_raw_string_hashes, reason = "as expect-test writes them")]

use expect_test::{Expect, expect};

use super::*;
use crate::args::Command;
use crate::store::Directory;

/// Two Services with endpoints, one without, and Ingresses for hosts of `.test`.
const OBJECTS: &str = "
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: nginx}
spec: {controller: k8s.io/ingress-nginx}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  namespace: demo
  name: shop
  annotations:
    nginx.ingress.kubernetes.io/rewrite-target: /$2
    nginx.ingress.kubernetes.io/auth-url: http://judge.test/check?of=$host
    nginx.ingress.kubernetes.io/limit-rps: '5'
    nginx.ingress.kubernetes.io/affinity: cookie
    nginx.ingress.kubernetes.io/enable-cors: 'true'
    nginx.ingress.kubernetes.io/cors-allow-origin: https://app.test
    nginx.ingress.kubernetes.io/proxy-body-size: lots
spec:
  ingressClassName: nginx
  tls: [{hosts: [shop.test], secretName: shop}]
  rules:
  - host: shop.test
    http: {paths: [{path: '/cart(/|$)(.*)', pathType: ImplementationSpecific, backend: {service: {name: web, port: {number: 80}}}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  namespace: demo
  name: near
  annotations: {nginx.ingress.kubernetes.io/auth-url: 'http://$arg_at:10254/api/routes'}
spec:
  ingressClassName: nginx
  rules:
  - host: near.test
    http: {paths: [{path: /near, pathType: Exact, backend: {service: {name: api, port: {number: 80}}}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {namespace: demo, name: plain}
spec:
  ingressClassName: nginx
  rules:
  - host: plain.test
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: api, port: {number: 80}}}}]}
  - host: empty.test
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: none, port: {number: 80}}}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  namespace: demo
  name: canary
  annotations: {nginx.ingress.kubernetes.io/canary: 'true', nginx.ingress.kubernetes.io/canary-weight: '30'}
spec:
  ingressClassName: nginx
  rules:
  - host: plain.test
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: new, port: {number: 80}}}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {namespace: demo, name: through, annotations: {nginx.ingress.kubernetes.io/ssl-passthrough: 'true'}}
spec:
  ingressClassName: nginx
  rules:
  - host: through.test
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {namespace: demo, name: other}
spec:
  ingressClassName: traefik
  rules: [{host: other.test}]
---
apiVersion: v1
kind: ConfigMap
metadata: {namespace: demo, name: settings}
data: {use-forwarded-headers: 'true', proxy-real-ip-cidr: 10.0.0.0/8, ssl-reject-handshake: 'true'}
---
apiVersion: v1
kind: Service
metadata: {namespace: demo, name: web}
spec: {clusterIP: None, selector: {a: b}, ports: [{name: p, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: demo, name: api}
spec: {clusterIP: None, selector: {a: b}, ports: [{name: p, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: demo, name: new}
spec: {clusterIP: None, selector: {a: b}, ports: [{name: p, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: demo, name: none}
spec: {clusterIP: None, selector: {a: b}, ports: [{name: p, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: demo, name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: p, port: 8080}]
endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: demo, name: api-1, labels: {kubernetes.io/service-name: api}}
addressType: IPv4
ports: [{name: p, port: 8080}]
endpoints: [{addresses: [10.0.0.3]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: demo, name: new-1, labels: {kubernetes.io/service-name: new}}
addressType: IPv4
ports: [{name: p, port: 8080}]
endpoints: [{addresses: [10.0.0.4]}]
";

/// Compares what is said of a request; lines that are the same for most are left out.
#[expect(clippy::needless_pass_by_value, reason = "reads better where it is called")]
fn check(argv: &[&str], expected: Expect) {
    const USUAL: [&str; 3] = ["they get", "patience", "towards them"];
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("objects.yaml");
    std::fs::write(&file, OBJECTS).expect("written");
    let objects = Directory::once(&[file], None).expect("objects");
    let argv = ["lockgate", "explain", "--issuer=none"].iter().chain(argv);
    let cli = args::parse(argv.map(|it| (*it).to_owned())).expect("arguments");
    let Command::Explain(args) = cli.command else { panic!("{cli:?}") };
    let now = Timestamp::from_second(1_795_168_800).expect("a time");
    let told = told(&args, &objects, &app::policy(&args.serve), now);
    let (explanation, notes) = told.expect("an explanation");
    let text = text(&explanation, &notes);
    let lines = text.lines().filter(|line| {
        !USUAL.iter().any(|it| line.starts_with(it))
            && !line.ends_with("no client certificate is asked for")
    });
    let lines: Vec<_> =
        lines.map(|it| it.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    expected.assert_eq(&(lines.join("\n") + "\n"));
}

#[test]
fn each_step_that_acts_is_told() {
    check(
        &["https://shop.test/cart/7?x=1", "-H", "Origin: https://app.test"],
        expect![[r#"
            request GET /cart/7?x=1 of shop.test from 192.0.2.1, over HTTPS at port 443
            certificate the self-signed one, which no client trusts: Secret demo/shop holds no certificate and key that are good for shop.test
            path /cart/7
            host the rules of shop.test
            rule Ingress demo/shop, path /cart(/|$)(.*), a regular expression like all paths of this host (use-regex or rewrite-target)
            rewrite endpoints are asked for /7?x=1 (rewrite-target: /$2)
            limits what one client may ask for: 5 requests a second (limit-rps), else 503; what it has asked for lately is not known here
            access GET http://judge.test/check?of=shop.test would be asked first (auth-url): 2xx lets the request pass, 401 and 403 refuse it, anything else is 500; it is not asked now
            backend Service demo/web, port 80
            endpoints 10.0.0.1:8080, 10.0.0.2:8080; the answer sets the cookie INGRESSCOOKIE, which keeps the client on one of them (affinity: cookie)
            body up to 1 MiB (proxy-body-size)
            the answer gets strict-transport-security: max-age=31536000; includeSubDomains, vary: Origin, access-control-allow-origin: https://app.test, access-control-allow-credentials: true, access-control-allow-methods: GET, PUT, POST, DELETE, PATCH, OPTIONS, access-control-allow-headers: DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization, access-control-max-age: 1728000

            Service demo/web, port 80, answers, at one of 10.0.0.1:8080, 10.0.0.2:8080, if auth-url lets it pass.

            What is wrong with the objects concerned:
            Ingress demo/shop: annotation proxy-body-size ignored: "lots" is not a size such as 512k or 8m
            Ingress demo/shop: Secret demo/shop is not there: shop.test shows the default certificate
        "#]],
    );
}

#[test]
fn a_judge_of_a_cluster_is_not_this_machine() {
    check(
        &["http://near.test/near?at=[::1]"],
        expect![[r#"
        request GET /near?at=[::1] of near.test from 192.0.2.1, over plain HTTP at port 80
        path /near
        host the rules of near.test
        rule Ingress demo/near, path /near, exactly
        access auth-url: [::1] is this machine or its link, where nobody is asked for objects of a cluster: 500 Internal Server Error

        Nobody serves it: the client gets 500.
    "#]],
    );
    check(
        &["http://near.test/near?at=[::1]", "--manifests=."],
        expect![[r#"
        request GET /near?at=[::1] of near.test from 192.0.2.1, over plain HTTP at port 80
        path /near
        host the rules of near.test
        rule Ingress demo/near, path /near, exactly
        access GET http://[::1]:10254/api/routes would be asked first (auth-url): 2xx lets the request pass, 401 and 403 refuse it, anything else is 500; it is not asked now
        canary Service demo/new, port 80, may take it by chance: 30 of 100 requests go there (canary-weight)
        backend Service demo/api, port 80
        endpoints 10.0.0.3:8080
        body up to 1 MiB (proxy-body-size)

        Service demo/api, port 80, answers, at 10.0.0.3:8080, if auth-url lets it pass, unless chance chooses Service demo/new, port 80.
    "#]],
    );
}

#[test]
fn why_nobody_serves_a_request_is_told() {
    check(
        &["http://shop.test/other"],
        expect![[r#"
        request GET /other of shop.test from 192.0.2.1, over plain HTTP at port 80
        path /other
        host the rules of shop.test
        rule none of this host's takes it: what is left goes to the default backend, with the settings of Ingress demo/shop
        rewrite endpoints are asked for / (rewrite-target: /$2)
        to HTTPS the host has an entry under spec.tls (ssl-redirect): 308 Permanent Redirect to https://shop.test/other

        The client is redirected with 308 to https://shop.test/other

        What is wrong with the objects concerned:
        Ingress demo/shop: annotation proxy-body-size ignored: "lots" is not a size such as 512k or 8m
        Ingress demo/shop: Secret demo/shop is not there: shop.test shows the default certificate
    "#]],
    );
    check(
        &["http://other.test/"],
        expect![[r#"
        request GET / of other.test from 192.0.2.1, over plain HTTP at port 80
        path /
        host no rule is for other.test, and none is without a host
        rule no rule takes it, and there is no --default-backend-service: 404 Not Found

        Nobody serves it: the client gets 404.

        What is wrong with the objects concerned:
        Ingress demo/other has a rule for other.test and is left alone: its class "traefik" is not one of ours (--controller-class=k8s.io/ingress-nginx)
    "#]],
    );
    check(
        &["http://empty.test/"],
        expect![[r#"
        request GET / of empty.test from 192.0.2.1, over plain HTTP at port 80
        path /
        host the rules of empty.test
        rule Ingress demo/plain, path / and what is below it
        backend Service demo/none, port 80
        endpoints no endpoint of Service demo/none is ready: 503 Service Unavailable

        Nobody serves it: the client gets 503.
    "#]],
    );
    check(
        &["http://plain.test/a%00"],
        expect![[r#"
            request GET /a%00 of plain.test from 192.0.2.1, over plain HTTP at port 80
            path the path holds a control character: the path is not a path: 400 Bad Request

            Nobody serves it: the client gets 400.
        "#]],
    );
}

#[test]
fn chance_is_told_and_not_tried() {
    check(
        &["http://plain.test/"],
        expect![[r#"
            request GET / of plain.test from 192.0.2.1, over plain HTTP at port 80
            path /
            host the rules of plain.test
            rule Ingress demo/plain, path / and what is below it
            canary Service demo/new, port 80, may take it by chance: 30 of 100 requests go there (canary-weight)
            backend Service demo/api, port 80
            endpoints 10.0.0.3:8080
            body up to 1 MiB (proxy-body-size)

            Service demo/api, port 80, answers, at 10.0.0.3:8080, unless chance chooses Service demo/new, port 80.
        "#]],
    );
}

#[test]
fn what_happens_before_a_request_is_told() {
    let settings = "--configmap=demo/settings";
    check(
        &["https://through.test/", "--enable-ssl-passthrough"],
        expect![[r#"
            request GET / of through.test from 192.0.2.1, over HTTPS at port 443
            TLS Ingress demo/through (ssl-passthrough) has it handed on as it is to Service demo/web, port 80

            Service demo/web, port 80, answers, at one of 10.0.0.1:8080, 10.0.0.2:8080.
        "#]],
    );
    check(
        &["https://strange.test/", settings],
        expect![[r#"
            request GET / of strange.test from 192.0.2.1, over HTTPS at port 443
            TLS no rule names this host, and the handshake is refused (ssl-reject-handshake)

            Nobody serves it: there is no connection.
        "#]],
    );
    check(
        &["http://plain.test/", settings, "--client=10.9.9.9", "-H", "X-Forwarded-For: 192.0.2.7"],
        expect![[r#"
            request GET / of plain.test from 10.9.9.9, over plain HTTP at port 80
            client 10.9.9.9 is trusted to say who asks: 192.0.2.7 over http, at port 80
            path /
            host the rules of plain.test
            rule Ingress demo/plain, path / and what is below it
            canary Service demo/new, port 80, may take it by chance: 30 of 100 requests go there (canary-weight)
            backend Service demo/api, port 80
            endpoints 10.0.0.3:8080
            body up to 1 MiB (proxy-body-size)

            Service demo/api, port 80, answers, at 10.0.0.3:8080, unless chance chooses Service demo/new, port 80.
        "#]],
    );
    check(
        &["http://plain.test/", settings],
        expect![[r#"
            request GET / of plain.test from 192.0.2.1, over plain HTTP at port 80
            client 192.0.2.1 is not among the proxies that are trusted to say who asks (proxy-real-ip-cidr)
            path /
            host the rules of plain.test
            rule Ingress demo/plain, path / and what is below it
            canary Service demo/new, port 80, may take it by chance: 30 of 100 requests go there (canary-weight)
            backend Service demo/api, port 80
            endpoints 10.0.0.3:8080
            body up to 1 MiB (proxy-body-size)

            Service demo/api, port 80, answers, at 10.0.0.3:8080, unless chance chooses Service demo/new, port 80.
        "#]],
    );
}
