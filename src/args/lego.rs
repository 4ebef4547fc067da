//! kube-lego's settings, which stand in the environment.

use super::Serve;

/// kube-lego's settings hold where ours are not given; its CA's first protocol is gone, so that its
/// addresses mean those of the second.
#[expect(clippy::disallowed_methods, reason = "kube-lego is configured by its environment")]
pub(super) fn take_environment(serve: &mut Serve) {
    let lego = |name: &str| std::env::var(name).ok().filter(|it| !it.is_empty());
    if serve.acme_email.is_none() {
        serve.acme_email = lego("LEGO_EMAIL");
    }
    if serve.acme_directory.is_none() {
        serve.acme_directory = lego("LEGO_URL").map(|it| second_protocol(&it));
    }
}

/// `acme-v01` → `acme-v02`.
fn second_protocol(url: &str) -> String {
    if url.contains("staging") && url.contains("acme-") && url.contains("v01") {
        return "https://acme-staging-v02.api.letsencrypt.org/directory".to_owned();
    }
    if url.contains("acme-staging.api.letsencrypt.org") {
        return "https://acme-staging-v02.api.letsencrypt.org/directory".to_owned();
    }
    url.replace("acme-v01", "acme-v02")
}

#[cfg(test)]
mod tests {
    use super::super::LETS_ENCRYPT;
    use super::*;

    #[test]
    fn the_first_acme_protocol_becomes_the_second() {
        assert_eq!(second_protocol("https://acme-v01.api.letsencrypt.org/directory"), LETS_ENCRYPT);
        assert_eq!(
            second_protocol("https://acme-staging.api.letsencrypt.org/directory"),
            "https://acme-staging-v02.api.letsencrypt.org/directory"
        );
    }
}
