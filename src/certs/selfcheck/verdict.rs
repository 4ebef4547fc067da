//! What answers from a host's addresses come to: one word, and one sentence for people.

use std::net::{IpAddr, SocketAddr};

use super::{PATH, Seen};

/// What one address gave.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct View {
    pub(super) address: IpAddr,
    pub(super) answer: Answer,
}

/// What came from there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Answer {
    Ours,
    /// Something came that is not the answer.
    Other(String),
    /// Nothing came.
    Nothing(String),
    /// We have no way there.
    NoWay,
}

/// Puts what was seen over both families into one word and one sentence.
pub(super) fn judge(
    host: &str,
    port: u16,
    four: Option<View>,
    six: Option<View>,
) -> (Seen, String) {
    match (four, six) {
        (Some(one), None) | (None, Some(one)) => alone(host, port, &one),
        (Some(four), Some(six)) => {
            let (first, second) = (alone(host, port, &four), alone(host, port, &six));
            match (&four.answer, &six.answer) {
                (Answer::Ours, Answer::Ours | Answer::NoWay) | (_, Answer::NoWay) => first,
                (Answer::NoWay, _) | (Answer::Nothing(_), Answer::Other(_)) => second,
                (Answer::Ours, _) => {
                    let text = "correct or remove its AAAA record";
                    let other = described(port, &six);
                    let ours = four.address;
                    (Seen::PartlyIpv6, format!("{host} is right at {ours}, but {other}: {text}"))
                }
                (_, Answer::Ours) => {
                    let text = "correct or remove its A record";
                    let other = described(port, &four);
                    let ours = six.address;
                    (Seen::PartlyIpv6, format!("{host} is right at {ours}, but {other}: {text}"))
                }
                _ => first,
            }
        }
        (None, None) => (Seen::NoDns, no_address(host)),
    }
}

fn alone(host: &str, port: u16, view: &View) -> (Seen, String) {
    let what = described(port, view);
    match view.answer {
        Answer::Ours => (Seen::Ok, format!("{host} points here: {what}")),
        Answer::Other(_) => (
            Seen::Foreign,
            format!(
                "{host} is answered by something else: {what}: point its DNS record to this proxy, or \
                 pass {PATH} on to it unchanged"
            ),
        ),
        Answer::Nothing(_) => (
            Seen::Unreachable,
            format!(
                "{host} cannot be reached: {what}: open port {port} there to everybody, or point the DNS \
                 record to this proxy"
            ),
        ),
        Answer::NoWay => (
            Seen::Inconclusive,
            format!("{host} cannot be judged from here: {what}; the CA will see for itself"),
        ),
    }
}

fn described(port: u16, View { address, answer }: &View) -> String {
    let at = SocketAddr::new(*address, port);
    match answer {
        Answer::Ours => format!("{at} gives our answer"),
        Answer::Other(text) | Answer::Nothing(text) => format!("{at} {text}"),
        Answer::NoWay => format!("there is no way from here to {at}"),
    }
}

pub(super) fn no_address(host: &str) -> String {
    format!("{host} has no address in DNS: add an A or AAAA record that points to this proxy")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r_pre_3_both_families_make_one_judgement() {
        let four = |answer| Some(View { address: IpAddr::from([192, 0, 2, 1]), answer });
        let six = |answer| Some(View { address: "2001:db8::1".parse().expect("one"), answer });
        let other = || Answer::Other("answers with status 404".to_owned());
        let nothing = || Answer::Nothing("refuses the connection".to_owned());
        for (a, b, expected) in [
            (four(Answer::Ours), None, Seen::Ok),
            (None, six(Answer::Ours), Seen::Ok),
            (four(Answer::Ours), six(Answer::Ours), Seen::Ok),
            // A cluster without IPv6 says nothing about the world's.
            (four(Answer::Ours), six(Answer::NoWay), Seen::Ok),
            (None, six(Answer::NoWay), Seen::Inconclusive),
            (four(Answer::Ours), six(other()), Seen::PartlyIpv6),
            (four(Answer::Ours), six(nothing()), Seen::PartlyIpv6),
            (four(nothing()), six(Answer::Ours), Seen::PartlyIpv6),
            (four(nothing()), six(other()), Seen::Foreign),
            (four(other()), six(nothing()), Seen::Foreign),
            (four(nothing()), six(nothing()), Seen::Unreachable),
            (four(nothing()), six(Answer::NoWay), Seen::Unreachable),
            (None, None, Seen::NoDns),
        ] {
            let (seen, text) = judge("a.test", 80, a.clone(), b.clone());
            assert_eq!(seen, expected, "{a:?} {b:?}");
            assert!(text.contains("a.test"), "{text}");
        }
    }
}
