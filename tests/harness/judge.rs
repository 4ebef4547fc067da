//! An external judge as oauth2-proxy is one: a cookie tells whom it knows.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{COOKIE, SET_COOKIE, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::backend::outside;
use super::endpoint::Speech;

/// Answers `/oauth2/auth`: 202 and who it is for the cookie `session=NAME`, 401 without. With `?renew` it
/// sets two cookies, whatever it says. `/status/NUMBER` is answered with that status and who it is,
/// `/chatty` with 202 and a body that does not end, `/deaf` never.
pub struct Judge {
    addr: SocketAddr,
    state: Arc<State>,
    server: AbortHandle,
}

#[derive(Default)]
struct State {
    questions: Mutex<Vec<Question>>,
    connections: AtomicUsize,
}

/// What a judge was asked.
#[derive(Clone, Debug)]
pub struct Question {
    pub method: String,
    pub target: String,
    /// In the order in which they came.
    pub fields: Vec<(String, String)>,
    pub body: usize,
}

impl Question {
    /// The values of a field, in one line; empty for none.
    pub fn field(&self, name: &str) -> String {
        let values = self.fields.iter().filter(|(it, _)| it == name);
        values.map(|(_, it)| it.as_str()).collect::<Vec<_>>().join(" | ")
    }
}

impl Judge {
    /// Serves on a free port of 127.0.0.1.
    pub async fn start() -> Self {
        Self::speaking(Speech::h1()).await
    }

    /// The same, as it is told to speak.
    pub async fn speaking(speech: Speech) -> Self {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0)), speech).await
    }

    /// Serves on an address that a cluster's objects may name; see [`Backend::outside`].
    ///
    /// [`Backend::outside`]: super::backend::Backend::outside
    pub async fn outside() -> Self {
        Self::start_on(outside(), Speech::h1()).await
    }

    async fn start_on(addr: SocketAddr, speech: Speech) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let (addr, state) = (listener.local_addr().unwrap(), Arc::<State>::default());
        let task = serve(listener, speech.acceptor(), Arc::clone(&state));
        Self { addr, state, server: tokio::spawn(task).abort_handle() }
    }

    /// A URL here.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What was asked since the last look.
    pub fn questions(&self) -> Vec<Question> {
        std::mem::take(&mut self.state.questions.lock().unwrap())
    }

    /// The one question since the last look.
    #[track_caller]
    pub fn question(&self) -> Question {
        let mut questions = self.questions();
        assert_eq!(questions.len(), 1, "{questions:?}");
        questions.remove(0)
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }
}

/// Ends the listener and every connection.
impl Drop for Judge {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<State>) {
    // Dropped with this task, and with it every connection.
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let (tls, state) = (tls.clone(), Arc::clone(&state));
        state.connections.fetch_add(1, Ordering::SeqCst);
        connections.spawn(async move {
            match tls {
                None => connection(tcp, state).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(tcp).await {
                        connection(stream, state).await;
                    }
                }
            }
        });
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    state: Arc<State>,
) {
    let service = service_fn(|request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(answer(request, &state).await) }
    });
    let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, state: &State) -> Response<BoxBody<Bytes, Infallible>> {
    let (head, body) = request.into_parts();
    let fields = head.headers.iter();
    let question = Question {
        method: head.method.to_string(),
        target: head.uri.to_string(),
        fields: fields
            .map(|(name, value)| {
                (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into())
            })
            .collect(),
        body: body.collect().await.map_or(0, |it| it.to_bytes().len()),
    };
    let cookies = question.field(COOKIE.as_str());
    state.questions.lock().unwrap().push(question);
    let name = cookies.split("; ").find_map(|it| it.strip_prefix("session=")).map(str::to_owned);
    let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
    if path == "/deaf" {
        std::future::pending::<()>().await;
    }
    let said = path.strip_prefix("/status/").and_then(|it| it.parse().ok());
    let status = match (said, &name) {
        (Some(said), _) => StatusCode::from_u16(said).unwrap(),
        (None, Some(_)) => StatusCode::ACCEPTED,
        (None, None) => StatusCode::UNAUTHORIZED,
    };
    let mut response = Response::new(Full::from("what the judge says\n").boxed());
    if path == "/chatty" {
        let first = stream::iter([Ok(Frame::data(Bytes::from_static(b"and so on\n")))]);
        *response.body_mut() =
            StreamBody::new(futures_util::StreamExt::chain(first, stream::pending())).boxed();
    }
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if let Some(name) = name {
        headers.insert("x-auth-request-email", format!("{name}@a.test").parse().unwrap());
        headers.insert("x-name", name.parse().unwrap());
        headers.insert("x-auth-request-user", name.parse().unwrap());
        headers.insert("authorization", "Bearer of-the-judge".parse().unwrap());
    }
    if query.contains("renew") {
        headers.append(SET_COOKIE, "session=new; Path=/".parse().unwrap());
        headers.append(SET_COOKIE, "other=1".parse().unwrap());
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, "Bearer realm=\"judge\"".parse().unwrap());
    }
    response
}
