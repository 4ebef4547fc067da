//! RFC 8555: from names to a certificate. from an order of any state on.

use std::time::Duration;

use instant_acme::{
    AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, Identifier, NewOrder, Order,
    OrderStatus, RetryPolicy, RevocationReason, RevocationRequest,
};
use rustls::pki_types::CertificateDer;

use super::acme::{Acme, Directory, Held};
use super::doing::Doing;
use super::refusal::{Gone, gone, is_a, is_about_replacing};
use super::standing::State;
use super::trouble::Trouble;
use super::vault::Vault;

/// How long the CA may take to validate.
const VALIDATION: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(90));
/// How long it may take to sign.
const ISSUANCE: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(120));

/// An order that the CA knows.
pub(super) struct Placed {
    order: Order,
}

impl Placed {
    /// Its URL, to be remembered before anything else is done with it.
    pub(super) fn url(&self) -> &str {
        self.order.url()
    }
}

/// What became of an order whose URL was on record.
pub(super) enum Found {
    /// It goes on.
    Order(Box<Placed>),
    /// The CA no longer knows it, or never did: nobody can say how it ended.
    Gone,
}

impl Acme {
    /// Takes up the order at `url`.
    pub(super) async fn find(&self, vault: &Vault, url: &str) -> Result<Found, Trouble> {
        let account = self.held(vault).await?.account;
        let mut answer = account.order(url.to_owned()).await;
        if answer.as_ref().is_err_and(|it| gone(it) == Some(Gone::Perhaps)) {
            // One odd answer is no reason to give up what may be issued by now.
            answer = account.order(url.to_owned()).await;
        }
        match answer {
            Ok(mut order) => match order.state().status {
                OrderStatus::Invalid => Err(self.reasons(&mut order).await),
                _ => Ok(Found::Order(Box::new(Placed { order }))),
            },
            Err(error) if gone(&error).is_some() => Ok(Found::Gone),
            Err(error) => Err(self.sort(error).await),
        }
    }

    /// Places an order for `names`, in place of the certificate `replaces`.
    pub(super) async fn place(
        &self,
        vault: &Vault,
        names: impl IntoIterator<Item = &String>,
        replaces: Option<&str>,
    ) -> Result<Placed, Trouble> {
        let Held { account, directory, .. } = self.held(vault).await?;
        let skew = self.skew().unwrap_or(0);
        if skew.abs() > 86_400 {
            return Err(Trouble::Clock(skew));
        }
        let names: Vec<Identifier> = names.into_iter().cloned().map(Identifier::Dns).collect();
        let mut order = NewOrder::new(&names);
        if let Some(profile) = &self.options.profile {
            if !directory.meta.profiles.contains_key(profile) {
                return Err(self.no_profile(&directory, profile));
            }
            order = order.profile(profile);
        }
        let replaces = replaces.filter(|_| directory.renewal_info.is_some());
        if let Some((key, serial)) = replaces.and_then(|it| it.split_once('.')) {
            order = order.replaces(CertificateIdentifier {
                authority_key_identifier: key.into(),
                serial: serial.into(),
            });
        }
        let mut order = match account.new_order(&order).await {
            Ok(order) => order,
            Err(error) if replaces.is_some() && is_about_replacing(&error) => {
                return Err(Trouble::Replaces(error.to_string()));
            }
            Err(error) => return Err(self.sort(error).await),
        };
        let echoed = order.state().profile.clone();
        if self.options.profile.is_some() && echoed != self.options.profile {
            let text = format!("it ordered with the profile {echoed:?} instead");
            return Err(Trouble::Refused { text, bad: Vec::new() });
        }
        Ok(Placed { order })
    }

    fn no_profile(&self, directory: &Directory, profile: &str) -> Trouble {
        let known: Vec<&str> = directory.meta.profiles.keys().map(String::as_str).collect();
        let text = if known.is_empty() {
            format!("{} has no profiles, so not {profile:?} either", self.name())
        } else {
            format!("it has no profile {profile:?}, but {}", known.join(", "))
        };
        Trouble::Refused { text, bad: Vec::new() }
    }

    /// Has the names validated and the request signed; gives the chain in PEM.
    ///
    /// Goes on from whatever state the order is in.
    pub(super) async fn complete(
        &self,
        placed: Placed,
        csr: &[u8],
        doing: &Doing,
    ) -> Result<String, Trouble> {
        let Placed { mut order } = placed;
        let mut status = order.state().status;
        if status == OrderStatus::Pending {
            doing.at(State::Validating);
            self.answer(&mut order).await?;
            status = match order.poll_ready(&VALIDATION).await {
                Ok(status) => status,
                // Pebble puts the reason into the order, Let's Encrypt into the authorization.
                Err(Error::Api(_) | Error::Timeout(_)) => OrderStatus::Invalid,
                Err(error) => return Err(self.sort(error).await),
            };
        }
        match status {
            OrderStatus::Ready => {
                doing.at(State::Finalizing);
                match order.finalize_csr(csr).await {
                    Ok(()) => {}
                    // Finalized before, by whoever was here first; whose key it holds is checked later.
                    Err(error) if is_a(&error, "orderNotReady") => {}
                    Err(error) => return Err(self.sort(error).await),
                }
            }
            OrderStatus::Processing | OrderStatus::Valid => {}
            OrderStatus::Pending | OrderStatus::Invalid => {
                return Err(self.reasons(&mut order).await);
            }
        }
        doing.at(State::Downloading);
        match order.poll_certificate(&ISSUANCE).await {
            Ok(chain) => Ok(chain),
            // The order has a reason of its own, or ended without one.
            Err(Error::Api(problem)) => Err(self.ended(&problem)),
            Err(_) if order.state().status == OrderStatus::Invalid => {
                Err(self.reasons(&mut order).await)
            }
            Err(error) => Err(self.sort(error).await),
        }
    }

    /// Revokes a certificate that this account ordered (RFC 8555 section 7.6).
    pub(super) async fn revoke(
        &self,
        vault: &Vault,
        leaf: &CertificateDer<'_>,
        reason: &str,
    ) -> Result<(), Trouble> {
        let account = self.held(vault).await?.account;
        let request = RevocationRequest { certificate: leaf, reason: Some(reason_of(reason)) };
        match account.revoke(&request).await {
            Ok(()) => Ok(()),
            Err(error) if is_a(&error, "alreadyRevoked") => Ok(()),
            Err(error) => Err(self.sort(error).await),
        }
    }

    /// Tells the CA that its challenges may be tried: every replica answers them already.
    async fn answer(&self, order: &mut Order) -> Result<(), Trouble> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = match authorization {
                Ok(it) => it,
                Err(error) => return Err(self.sort(error).await),
            };
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let name = authorization.identifier().to_string();
            let Some(mut challenge) = authorization.challenge(ChallengeType::Http01) else {
                let text = format!("it offers no http-01 challenge for {name}");
                return Err(Trouble::Refused { text, bad: vec![name] });
            };
            if let Err(error) = challenge.set_ready().await {
                // One that was tried already is heard of no more: how it went says the order.
                if !is_a(&error, "malformed") {
                    return Err(self.sort(error).await);
                }
            }
        }
        Ok(())
    }
}

/// RFC 5280 section 5.3.1, as the flags of other tools spell it.
fn reason_of(text: &str) -> RevocationReason {
    let word: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
    match word.to_ascii_lowercase().as_str() {
        "keycompromise" | "1" => RevocationReason::KeyCompromise,
        "affiliationchanged" | "3" => RevocationReason::AffiliationChanged,
        "superseded" | "4" => RevocationReason::Superseded,
        "cessationofoperation" | "5" => RevocationReason::CessationOfOperation,
        _ => RevocationReason::Unspecified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_for_revoking_are_spelled_in_any_way() {
        for (text, expected) in
            [("keyCompromise", 1), ("key-compromise", 1), ("superseded", 4), ("", 0), ("why", 0)]
        {
            assert_eq!(reason_of(text) as u8, expected, "{text}");
        }
    }
}
