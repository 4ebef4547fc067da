//! Bodies and times: how large and how slow messages may be.

use super::{Annotation, moot, sets};
use super::{BUFFER, NUMBER, ON_OR_OFF, SECONDS};
use crate::model::value::{bytes, positive_bytes, positive_seconds, switch};

pub(super) const ROWS: &[Annotation] = &[
    sets(
        "proxy-body-size",
        "1m",
        "Largest request body, as `8m`; `0` lifts the limit.",
        |value, options| {
            let size = bytes(value).ok_or("a size such as 512k or 8m")?;
            options.body_limit = (size > 0).then_some(size);
            Ok(())
        },
    ),
    moot("client-body-buffer-size", "8k", "Bodies are streamed."),
    sets(
        "proxy-connect-timeout",
        "5",
        "Seconds to wait for a connection to an endpoint.",
        |value, options| {
            options.connect_timeout = positive_seconds(value).ok_or(SECONDS)?;
            Ok(())
        },
    ),
    sets(
        "proxy-read-timeout",
        "60",
        "Seconds between two reads from an endpoint.",
        |value, options| {
            options.read_timeout = positive_seconds(value).ok_or(SECONDS)?;
            Ok(())
        },
    ),
    sets(
        "proxy-send-timeout",
        "60",
        "Seconds between two writes to an endpoint.",
        |value, options| {
            options.send_timeout = positive_seconds(value).ok_or(SECONDS)?;
            Ok(())
        },
    ),
    sets(
        "proxy-request-buffering",
        "on",
        "`on` or `off`: take a body of up to 64 KiB whole before an endpoint is asked.",
        |value, options| {
            options.request_buffering = switch(value).ok_or(ON_OR_OFF)?;
            Ok(())
        },
    ),
    sets(
        "proxy-buffering",
        "off",
        "`on` or `off`: read answers ahead of the client.",
        |value, options| {
            options.buffers.on = switch(value).ok_or(ON_OR_OFF)?;
            Ok(())
        },
    ),
    sets(
        "proxy-buffers-number",
        "4",
        "How far: this many times `proxy-buffer-size`, 16k to 1m in all.",
        |value, options| {
            options.buffers.number = value.parse().ok().filter(|it| *it > 0).ok_or(NUMBER)?;
            Ok(())
        },
    ),
    sets("proxy-buffer-size", "4k", "See `proxy-buffers-number`.", |value, options| {
        options.buffers.size = positive_bytes(value).ok_or(BUFFER)?;
        Ok(())
    }),
    moot("proxy-busy-buffers-size", "", "What is read goes on to the client at once."),
    moot("proxy-max-temp-file-size", "1024m", "Nothing is written to disk."),
];
