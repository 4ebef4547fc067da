//! The least of an HTTP/1.1 client, over any stream.

use std::io::{Read, Write};

use crate::Result;

/// Asks on a connection that is kept, reads the whole answer, and gives its status.
pub(crate) fn ask(stream: &mut (impl Read + Write), host: &str, path: &str) -> Result<u16> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    let mut end = None;
    loop {
        let mut part = [0; 4096];
        let length = stream.read(&mut part)?;
        if length == 0 {
            return Err("the connection was closed".into());
        }
        answer.extend_from_slice(&part[..length]);
        if end.is_none() {
            end = length_of(&answer)?;
        }
        if end.is_some_and(|end| answer.len() >= end) {
            break;
        }
    }
    let status = answer.get(9..12).and_then(|it| std::str::from_utf8(it).ok());
    Ok(status.ok_or("no status")?.parse()?)
}

/// How long an answer is in all, once its head is there.
fn length_of(answer: &[u8]) -> Result<Option<usize>> {
    let Some(end) = answer.windows(4).position(|it| it == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&answer[..end])?;
    let length = head.lines().filter_map(|it| it.split_once(':'));
    let mut length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let (_, length) = length.next().ok_or("an answer without a length")?;
    Ok(Some(end + 4 + length.trim().parse::<usize>()?))
}
