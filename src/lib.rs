//! Lockgate: an ingress proxy for Kubernetes that keeps its own certificates.
//!
//! It reads Kubernetes objects, compiles them into a plan, serves the plan, and keeps the certificates
//! that the plan wants alive.
//!
//! ```text
//!   API server or files                    clients ──────────────┐
//!          │ watch                                               ▼
//!       [store] ── Objects ──▶ [compile] ── Plan ──▶ [live] ◀── [proxy] ──▶ endpoints
//!          ▲                      │ Problems         one pointer, swapped
//!          │ Secrets, Events,     ▼
//!          │ status           [status] [admin]
//!          └────────────────  [certs] ──▶ CA     only who holds the [lease] writes
//! ```
//!
//! # Three sentences
//!
//! Everything served came through one snapshot. Compiling is pure and total. What a route does is data,
//! not types.
//!
//! # Floors
//!
//! A module uses only modules on floors below its own; a test reads this from the `use` lines.
//!
//! | floor | modules | what |
//! |---|---|---|
//! | 0 | [`model`] | words: plain data and parsing |
//! | 1 | [`compile`], [`metrics`], [`args`] | objects → plan; what is measured; flags |
//! | 2 | [`live`], [`store`], [`spans`] | what is served now; where objects live (the only user of `kube`); the way of spans to a collector |
//! | 3 | [`proxy`], [`lease`] | the life of a request; which replica writes |
//! | 4 | [`certs`], [`status`] | certificates (the only user of `instant-acme`); Events and addresses |
//! | 5 | [`admin`] | health, metrics, the status page |
//! | 6 | [`app`] | starts and stops everything |
//! | 7 | [`cert`], [`check`], [`convert`], [`demo`], [`explain`] | what a user runs beside it |
//!
//! # Three journeys
//!
//! **An Ingress.** A watch for each kind keeps the latest objects, in types of our own. A burst settles
//! (50 ms of quiet, 5 ms after a calm, 1 s at most), and a complete snapshot goes to
//! [`compile::compile`], which gives a [plan](model::plan::Plan) and
//! [problems](model::problem::Problem). A plan that equals the last one ends here. Another one becomes a
//! [`live::Live`], which takes over from the last what must outlast a change, and is swapped in with one
//! pointer. There is no update, no delete path, no reload. All that happens on a thread of its own, where
//! the last one is let go, too, once no request needs it.
//!
//! **A request.** Each core has a worker: a thread, a runtime, listening sockets, connections to
//! endpoints. A connection is accepted, perhaps says by a PROXY header whose it is, perhaps shakes hands,
//! and is served by hyper; two layers give each request an id, a log line and a count; between them
//! `proxy::answer` walks the list of steps: who asks, challenge, rule, client certificate, redirects, rewrite,
//! limits, access, canary, forward; `proxy::explain` tells them of one request and sends nothing.
//! Towards endpoints hyper speaks HTTP/2, and `proxy::wire` HTTP/1.1: there whoever waits for the answer
//! drives the connection, and nothing stands between it and the socket but two buffers.
//! Workers share nothing but the pointer to the `Live` and atomics.
//!
//! **A certificate.** The plan says which Secrets are wanted and what they hold. Whoever holds the lease
//! orders what is due, as far as the ledger allows, which outlives Secrets and replicas; any replica
//! answers the CA, because the answer needs only the thumbprint of the account's key. The certificate is
//! stored in its Secret, comes back in a snapshot, and the next handshake shows it. Nothing is served
//! that was not first stored.
//!
//! # Invariants
//!
//! 1. Whatever is served came out of one snapshot.
//! 2. `compile` is pure, total and deterministic: no clock, no I/O, no error.
//! 3. A request sees one `Live` from start to end; the pointer has one writer.
//! 4. Every replica serves; only the holder of the lease writes.
//! 5. No globals but the allocator, the crypto provider and the log's subscriber; the clock is handed
//!    down.
//! 6. No `unwrap`; a panic in one connection never ends another.
//! 7. Labels of metrics come from objects, never from requests.
//! 8. One crypto provider, aws-lc-rs; `ring` is never compiled.

pub mod model;

pub mod args;
pub mod compile;
pub mod metrics;

pub mod live;
pub mod spans;
pub mod store;

pub mod lease;
pub mod proxy;

pub mod certs;
pub mod status;

pub mod admin;

pub mod app;
pub mod cert;
pub mod check;
pub mod convert;
pub mod demo;
pub mod explain;
