//! Canaries and affinity: who of several gets a request.

use super::super::Instead;
use super::{Annotation, missing, moot};
use super::{is_false, never};

pub(super) const ROWS: &[Annotation] = &[
    missing(
        "canary",
        "false",
        "This Ingress takes a share of another one's requests.",
        is_false,
        Instead::Skip,
    )
    .of_backend(),
    missing("canary-by-header", "", "Header that chooses the canary.", never, Instead::Serve)
        .of_backend(),
    missing("canary-by-header-value", "", "Its value.", never, Instead::Serve).of_backend(),
    missing("canary-by-header-pattern", "", "Pattern of its value.", never, Instead::Serve)
        .of_backend(),
    missing("canary-by-cookie", "", "Cookie that chooses it.", never, Instead::Serve).of_backend(),
    missing("canary-weight", "0", "Its share.", never, Instead::Serve).of_backend(),
    missing("canary-weight-total", "100", "Out of how many.", never, Instead::Serve).of_backend(),
    missing("affinity", "", "`cookie`: keep a client on one endpoint.", never, Instead::Serve)
        .of_backend(),
    missing("affinity-mode", "balanced", "What keeps it there.", never, Instead::Serve)
        .of_backend(),
    missing("affinity-canary-behavior", "sticky", "Whether canaries count.", never, Instead::Serve)
        .of_backend(),
    missing("session-cookie-name", "INGRESSCOOKIE", "Name of that cookie.", never, Instead::Serve)
        .of_backend(),
    missing("session-cookie-path", "the path of the rule", "Its path.", never, Instead::Serve)
        .of_backend(),
    missing("session-cookie-domain", "", "Its domain.", never, Instead::Serve).of_backend(),
    missing("session-cookie-samesite", "", "Its SameSite.", never, Instead::Serve).of_backend(),
    missing(
        "session-cookie-conditional-samesite-none",
        "false",
        "Leave out SameSite=None for browsers that choke on it.",
        is_false,
        Instead::Serve,
    )
    .of_backend(),
    missing(
        "session-cookie-secure",
        "as the connection",
        "`Secure` on the affinity cookie.",
        is_false,
        Instead::Serve,
    )
    .of_backend(),
    missing("session-cookie-expires", "", "Its end.", never, Instead::Serve).of_backend(),
    missing("session-cookie-max-age", "", "Its age.", never, Instead::Serve).of_backend(),
    missing(
        "session-cookie-change-on-failure",
        "false",
        "New endpoint, new cookie.",
        is_false,
        Instead::Serve,
    )
    .of_backend(),
    moot("session-cookie-hash", "", "Removed from ingress-nginx."),
];
