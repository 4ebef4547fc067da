//! Limits: how much one client may ask for.

use super::{Annotation, count, guards, sets};
use crate::model::network::Networks;
use crate::model::options::Options;
use crate::model::rate::Rates;

const COUNT: &str = "a whole number";
const NETWORKS: &str = "a list such as 10.0.0.0/8,192.0.2.1";

pub(super) const ROWS: &[Annotation] = &[
    guards(
        "limit-rps",
        "0",
        "Requests a second of one client address to this Ingress, by each replica: what is above the burst is \
         answered 503 (`limit-req-status-code`) at once; `0` for no limit.",
        |value, options| number(value, options, |it, limit| it.second = limit),
    ),
    guards("limit-rpm", "0", "Requests a minute, likewise.", |value, options| {
        number(value, options, |it, limit| it.minute = limit)
    }),
    guards(
        "limit-connections",
        "0",
        "Requests at a time of one client address to this Ingress, by each replica; others are answered 503 \
         (`limit-conn-status-code`). `0` for no limit.",
        |value, options| number(value, options, |it, limit| it.connections = limit),
    ),
    sets(
        "limit-burst-multiplier",
        "5",
        "How many times `limit-rps` and `limit-rpm` may come at once.",
        |value, options| {
            let multiplier = value.parse().map_err(|_| "a whole number, not below 0")?;
            options.rates.get_or_insert_default().multiplier = Some(multiplier);
            Ok(())
        },
    ),
    guards(
        "limit-allowlist",
        "",
        "Addresses and networks of clients without these limits.",
        exempt,
    ),
    guards("limit-whitelist", "", "Older name of `limit-allowlist`.", |value, options| {
        // In the order of names the newer one was read before.
        match &options.rates {
            Some(rates) if rates.exempt != Networks::default() => Ok(()),
            _ => exempt(value, options),
        }
    }),
    sets(
        "limit-rate",
        "0",
        "KiB of an answer's body a second; `0` for no limit.",
        |value, options| kib(value, options, |it, bytes| it.bytes = bytes),
    ),
    sets("limit-rate-after", "0", "KiB of it that come before that counts.", |value, options| {
        kib(value, options, |it, bytes| it.bytes_after = bytes)
    }),
];

/// What is not limited anyway needs no room.
fn number(
    value: &str,
    options: &mut Options,
    set: fn(&mut Rates, u32),
) -> Result<(), &'static str> {
    let limit = count(value).ok_or(COUNT)?;
    if limit > 0 || options.rates.is_some() {
        set(options.rates.get_or_insert_default(), limit);
    }
    Ok(())
}

fn kib(value: &str, options: &mut Options, set: fn(&mut Rates, u64)) -> Result<(), &'static str> {
    let limit = count(value).ok_or("a whole number of KiB")?;
    if limit > 0 || options.rates.is_some() {
        set(options.rates.get_or_insert_default(), u64::from(limit) << 10);
    }
    Ok(())
}

fn exempt(value: &str, options: &mut Options) -> Result<(), &'static str> {
    options.rates.get_or_insert_default().exempt = value.parse().map_err(|_| NETWORKS)?;
    Ok(())
}
