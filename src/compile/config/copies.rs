//! Keys about logs, mirrors and traces.

use super::{Key, key, truth};
use crate::model::copies::TargetPattern;
use crate::model::settings::Settings;
use crate::model::value::entries_of;

pub(super) const KEYS: &[Key] = &[
    key(
        "skip-access-log-urls",
        "Requests for these leave no line: path and query.",
        |value, it| {
            let entries = entries_of(value);
            let targets = entries.map(TargetPattern::parse).collect::<Option<_>>();
            let targets = targets.ok_or("a list of paths, or of ~ and regular expressions")?;
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

fn standard_output(value: &str, _: &mut Settings) -> Result<(), &'static str> {
    match value {
        "" | "/dev/stdout" | "/var/log/nginx/access.log" => Ok(()),
        _ => Err("where the access log goes, which is standard output"),
    }
}
