//! Keys about logs, mirrors and traces.

use super::{Key, key, truth};

pub(super) const KEYS: &[Key] = &[
    key(
        "skip-access-log-urls",
        "Requests for these leave no line: path and query.",
        |value, it| {
            let targets: Vec<Box<str>> = value
                .split(',')
                .map(str::trim)
                .filter(|it| !it.is_empty())
                .map(Into::into)
                .collect();
            if targets.iter().any(|it| !it.starts_with('/')) {
                return Err(
                    "a list of paths, which begin with a slash; regular expressions are not known",
                );
            }
            it.unlogged.targets = targets;
            Ok(())
        },
    ),
    key(
        "enable-access-log-for-default-backend",
        "`false`: no lines for what no rule takes.",
        |value, it| {
            it.unlogged.unmatched = !truth(value)?;
            Ok(())
        },
    ),
    key("access-log-path", "Standard output, whatever is set.", standard_output),
    key("http-access-log-path", "Standard output, whatever is set.", standard_output),
];

fn standard_output(
    value: &str,
    _: &mut crate::model::settings::Settings,
) -> Result<(), &'static str> {
    match value {
        "" | "/dev/stdout" | "/var/log/nginx/access.log" => Ok(()),
        _ => Err("where the access log goes, which is standard output"),
    }
}
