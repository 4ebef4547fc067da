//! Keys of ports that are handed on as they are.

use super::{Key, key, truth};
use crate::model::value::{duration, positive_seconds};

pub(super) const KEYS: &[Key] = &[
    key("proxy-stream-next-upstream", "Of a stream: try another endpoint.", |value, it| {
        it.streams.next = truth(value)?;
        Ok(())
    }),
    key(
        "proxy-stream-next-upstream-timeout",
        "For how long, `0` for ever; 600 s unless set.",
        |value, it| {
            let time = duration(value).or_else(|| positive_seconds(value));
            let time = time.ok_or("a time such as 30s, or 0")?;
            it.streams.within = Some(time).filter(|it| !it.is_zero());
            Ok(())
        },
    ),
    key(
        "proxy-stream-next-upstream-tries",
        "How many in all, `0` for every one; 3 unless set.",
        |value, it| {
            let tries = value.parse().map_err(|_| "a whole number")?;
            it.streams.tries = Some(tries).filter(|it| *it > 0);
            Ok(())
        },
    ),
    key("proxy-stream-responses", "Datagrams that answer one; 1 unless set.", |value, it| {
        it.streams.responses = value.parse().map_err(|_| "a whole number")?;
        Ok(())
    }),
];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::compile::config::honoured;
    use crate::model::settings::Settings;
    use crate::model::stream::StreamSettings;

    #[test]
    fn keys_change_how_streams_are_handed_on() {
        let usual = StreamSettings::default;
        let within = |seconds| Some(Duration::from_secs(seconds));
        for (key, value, good, expected) in [
            ("", "false", true, StreamSettings { next: false, ..usual() }),
            ("", "off", false, usual()),
            ("-timeout", "30s", true, StreamSettings { within: within(30), ..usual() }),
            ("-timeout", "30", true, StreamSettings { within: within(30), ..usual() }),
            ("-timeout", "0", true, StreamSettings { within: None, ..usual() }),
            ("-timeout", "soon", false, usual()),
            ("-tries", "5", true, StreamSettings { tries: Some(5), ..usual() }),
            ("-tries", "0", true, StreamSettings { tries: None, ..usual() }),
            ("-tries", "-1", false, usual()),
        ] {
            let mut settings = Settings::default();
            let name = format!("proxy-stream-next-upstream{key}");
            let row = honoured(&name).expect("a key");
            assert_eq!(row.read(value, &mut settings).is_ok(), good, "{name}: {value}");
            assert_eq!(settings.streams, expected, "{name}: {value}");
        }
    }
}
