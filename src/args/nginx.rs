//! The command line of an ingress-nginx Deployment: Go's syntax of flags, and flags that mean nothing here.

use super::Told;

/// Flags of ingress-nginx that take a value and have no effect here.
const IGNORED: &[&str] = &[
    "alsologtostderrthreshold",
    "bucket-factor",
    "certificate-authority",
    "default-server-port",
    "dynamic-configuration-retries",
    "exclude-socket-metrics",
    "health-check-timeout",
    "internal-logger-address",
    "log_backtrace_at",
    "log_dir",
    "log_file",
    "log_file_max_size",
    "max-buckets",
    "maxmind-edition-ids",
    "maxmind-license-key",
    "maxmind-mirror",
    "maxmind-retries-count",
    "maxmind-retries-timeout",
    "monitor-max-batch-size",
    "post-shutdown-grace-period",
    "profiler-address",
    "profiler-port",
    "size-buckets",
    "ssl-passthrough-proxy-port",
    "status-port",
    "stderrthreshold",
    "stream-port",
    "sync-period",
    "sync-rate-limit",
    "v",
    "validating-webhook",
    "validating-webhook-certificate",
    "validating-webhook-key",
    "vmodule",
];

/// Flags of ingress-nginx that are true or false and have no effect here.
const IGNORED_BOOLEAN: &[&str] = &[
    "add_dir_header",
    "alsologtostderr",
    "deep-inspect",
    "disable-full-test",
    "disable-sync-events",
    "enable-annotation-validation",
    "enable-ssl-chain-completion",
    "logtostderr",
    "metrics-per-undefined-host",
    "one_output",
    "profiling",
    "skip_headers",
    "skip_log_headers",
    "update-status-on-shutdown",
];

/// Brings the arguments, the program's name first, into our syntax, and takes out what has no effect here;
/// the names of those flags come second.
pub(super) fn understood(
    argv: impl IntoIterator<Item = String>,
) -> Result<(Vec<String>, Vec<String>), Told> {
    let mut argv = argv.into_iter();
    let program = argv.next().unwrap_or_default();
    let mut rest: Vec<String> = argv.collect();
    let is = |text: &str, name: &str| text.rsplit('/').next() == Some(name);
    // A Deployment names ingress-nginx's own program first.
    if rest.first().is_some_and(|it| is(it, "nginx-ingress-controller")) {
        rest.remove(0);
    }
    if is(&program, "wait-shutdown") || rest.first().is_some_and(|it| is(it, "wait-shutdown")) {
        // The signal that follows does all there is to do.
        return Err(Told { text: String::new(), code: 0 });
    }
    Ok(translated(rest))
}

fn translated(argv: Vec<String>) -> (Vec<String>, Vec<String>) {
    let mut kept = Vec::new();
    let mut ignored = Vec::new();
    let mut argv = argv.into_iter().peekable();
    while let Some(it) = argv.next() {
        let body = it.trim_start_matches('-');
        let dashes = it.len() - body.len();
        let name = body.split('=').next().unwrap_or_default();
        if !(1..=2).contains(&dashes) || name.is_empty() {
            kept.push(it);
            continue;
        }
        if IGNORED_BOOLEAN.contains(&name) {
            ignored.push(name.to_owned());
        } else if IGNORED.contains(&name) {
            ignored.push(name.to_owned());
            if !body.contains('=') && argv.peek().is_some_and(|it| !it.starts_with('-')) {
                argv.next();
            }
        } else if dashes == 1 && name.len() > 1 {
            kept.push(format!("--{body}"));
        } else {
            kept.push(it);
        }
    }
    (kept, ignored)
}
