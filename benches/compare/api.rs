//! A Kubernetes API server of the bench's own: as much of one as a program that reads needs.
//!
//! It lists in pages and watches, over plain HTTP, and knows nothing of namespaces, selectors, credentials
//! or writes: whatever else is asked is answered 404. A real one would cost more than what is measured.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Result;

/// The objects of each kind, by the path it is listed at.
pub(crate) type Shelves = BTreeMap<&'static str, Vec<Value>>;

/// A running one, until it is dropped.
pub(crate) struct Api {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Told whenever the state changed.
    changed: Condvar,
}

struct State {
    /// Of the newest change.
    version: u64,
    shelves: BTreeMap<&'static str, Shelf>,
    over: bool,
}

struct Shelf {
    /// As JSON.
    items: Vec<String>,
    /// Each change as a watch tells it, with its version.
    log: Vec<(u64, String)>,
}

impl Api {
    pub(crate) fn start(shelves: Shelves) -> Result<Self> {
        let shelf = |items: Vec<Value>| Shelf {
            items: items.iter().map(Value::to_string).collect(),
            log: Vec::new(),
        };
        let shelves = shelves.into_iter().map(|(path, items)| (path, shelf(items))).collect();
        let state = Mutex::new(State { version: 1, shelves, over: false });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let own = shared.clone();
        std::thread::spawn(move || accept(&listener, &own));
        Ok(Self { address, shared })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Replaces an object, counted from zero, and tells all who watch.
    pub(crate) fn replace(&self, path: &str, number: usize, mut object: Value) -> Result<()> {
        let mut state = self.shared.lock();
        state.version += 1;
        let version = state.version;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let shelf = state.shelves.get_mut(path).ok_or("no such kind")?;
        *shelf.items.get_mut(number).ok_or("no such object")? = object.to_string();
        let event = json!({"type": "MODIFIED", "object": object});
        shelf.log.push((version, format!("{event}\n")));
        drop(state);
        self.shared.changed.notify_all();
        Ok(())
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.changed.notify_all();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.lock().over {
            return;
        }
        let Ok(stream) = stream else { continue };
        let shared = shared.clone();
        // A connection that fails is the other side's affair.
        std::thread::spawn(move || drop(serve(&stream, &shared)));
    }
}

/// Serves a connection until it is closed.
fn serve(stream: &TcpStream, shared: &Shared) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut answer = stream;
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if reader.read_until(b'\n', &mut head)? == 0 {
                return Ok(());
            }
        }
        let head = String::from_utf8(head)?;
        let mut line = head.split_whitespace();
        let (method, target) = (line.next().unwrap_or_default(), line.next().unwrap_or_default());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let asked = Asked { path, query: query.split('&').collect() };
        if method != "GET" {
            // Its body is not read: the connection ends here.
            write(&mut answer, "404 Not Found", &not_found().to_string())?;
            return Ok(());
        }
        match asked.value("watch") {
            Some("true" | "1") => watch(&mut answer, &asked, shared)?,
            _ => match list(&asked, shared) {
                Some(page) => write(&mut answer, "200 OK", &page)?,
                None => write(&mut answer, "404 Not Found", &not_found().to_string())?,
            },
        }
    }
}

/// What is asked for.
struct Asked<'a> {
    path: &'a str,
    query: Vec<&'a str>,
}

impl Asked<'_> {
    fn value(&self, name: &str) -> Option<&str> {
        let pairs = self.query.iter().filter_map(|it| it.split_once('='));
        pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.value(name)?.parse().ok()
    }

    /// A list within a namespace, which is how the account's Secret is looked for, is empty.
    fn is_of_namespace(&self) -> bool {
        self.path.starts_with("/api/v1/namespaces/") && self.path.ends_with("/secrets")
    }
}

/// A page of a list, from the place that `continue` says.
fn list(asked: &Asked<'_>, shared: &Shared) -> Option<String> {
    let state = shared.lock();
    let items = match state.shelves.get(asked.path) {
        Some(shelf) => shelf.items.as_slice(),
        None if asked.is_of_namespace() => &[],
        None => return None,
    };
    let from = usize::try_from(asked.number("continue").unwrap_or(0)).ok()?.min(items.len());
    let limit = usize::try_from(asked.number("limit").unwrap_or(0)).ok()?;
    let end = if limit == 0 { items.len() } else { items.len().min(from + limit) };
    let mut metadata = json!({"resourceVersion": state.version.to_string()});
    if end < items.len() {
        metadata["continue"] = end.to_string().into();
    }
    Some(format!(
        r#"{{"kind":"List","apiVersion":"v1","metadata":{metadata},"items":[{}]}}"#,
        items[from..end].join(",")
    ))
}

/// Tells of changes as they come, until the time that was asked for is over.
fn watch(stream: &mut impl Write, asked: &Asked<'_>, shared: &Shared) -> Result<()> {
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )?;
    let end = Instant::now() + Duration::from_secs(asked.number("timeoutSeconds").unwrap_or(60));
    let mut seen = asked.number("resourceVersion").unwrap_or(0);
    let mut state = shared.lock();
    loop {
        let log = state.shelves.get(asked.path).map_or(&[][..], |it| &it.log);
        let new = &log[log.partition_point(|(version, _)| *version <= seen)..];
        if let Some((version, _)) = new.last() {
            seen = *version;
            let events: String = new.iter().map(|(_, event)| event.as_str()).collect();
            drop(state);
            stream.write_all(format!("{:x}\r\n{events}\r\n", events.len()).as_bytes())?;
            state = shared.lock();
            continue;
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || state.over {
            break;
        }
        (state, _) =
            shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
    }
    drop(state);
    stream.write_all(b"0\r\n\r\n")?;
    Ok(())
}

fn not_found() -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "there is no such thing", "reason": "NotFound", "code": 404,
    })
}

fn write(stream: &mut impl Write, status: &str, body: &str) -> Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    Ok(())
}
