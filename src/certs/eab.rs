//! Registration with a CA that wants to know by whom: RFC 8555 section 7.3.4.
//!
//! The CA hands out a key id and a MAC key, and an account is bound to them when it is made. We sign that
//! one message ourselves, so that the account gets the key that is stored already: a crash in the middle
//! costs nothing, and the binding, which some CAs accept only once, is not used up by an account whose key
//! was lost.

use std::fmt;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, Method, Request};
use instant_acme::{BodyWrapper, Error, HttpClient, Problem};
use serde::Deserialize;
use serde_json::{Value, json};

/// How often a nonce may be refused before we give up, the first included.
const TRIES: u32 = 5;

/// What to do about a CA's `externalAccountRequired`.
pub(super) const MISSING: &str =
    "give --acme-eab-kid and --acme-eab-hmac-file what the CA handed out";

/// What a CA handed out for one account (`--acme-eab-kid`, `--acme-eab-hmac-file`).
#[derive(Clone, Eq, PartialEq)]
pub struct Binding {
    /// The id of the MAC key.
    pub kid: String,
    /// The MAC key, decoded.
    pub hmac: Vec<u8>,
}

impl fmt::Debug for Binding {
    /// Never shows the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Binding").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl Binding {
    /// Reads the MAC key as CAs hand it out: base64url, padded or not, with whatever space around it.
    pub fn read(kid: &str, hmac: &str) -> Option<Self> {
        let hmac = hmac.trim().trim_end_matches('=').replace('+', "-").replace('/', "_");
        let hmac = BASE64_URL_SAFE_NO_PAD.decode(hmac).ok().filter(|it| !it.is_empty())?;
        Some(Self { kid: kid.to_owned(), hmac })
    }
}

/// The URL of the account with this key (PKCS #8, P-256), which is made and bound where there is none.
pub(super) async fn register(
    client: &impl HttpClient,
    directory: &str,
    key_pkcs8: &[u8],
    contact: Option<&str>,
    binding: &Binding,
) -> Result<String, Error> {
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key_pkcs8)
        .map_err(|_| Error::Str("the account's key cannot be read"))?;
    let request = Request::get(directory).body(BodyWrapper::default())?;
    let (_, body) = answer(client, request).await?;
    let directory: Directory = serde_json::from_slice(&body)?;
    let mut registration = Registration { client, directory: &directory, key: &key, nonce: None };
    // A binding is asked for only where it is needed.
    match registration.send(&json!({ "onlyReturnExisting": true })).await {
        Err(Error::Api(it)) if is(&it, "accountDoesNotExist") => {}
        other => return other,
    }
    let mut payload = json!({
        "termsOfServiceAgreed": true,
        "externalAccountBinding": bound(binding, &jwk(&key), &directory.new_account),
    });
    if let Some(contact) = contact {
        payload["contact"] = json!([format!("mailto:{contact}")]);
    }
    registration.send(&payload).await
}

/// The part of the directory that is needed here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Directory {
    new_nonce: String,
    new_account: String,
}

struct Registration<'a, C> {
    client: &'a C,
    directory: &'a Directory,
    key: &'a EcdsaKeyPair,
    nonce: Option<String>,
}

impl<C: HttpClient> Registration<'_, C> {
    /// Sends a newAccount request; gives the account's URL. A refused nonce is replaced.
    async fn send(&mut self, payload: &Value) -> Result<String, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            let nonce = match self.nonce.take() {
                Some(nonce) => nonce,
                None => self.fresh().await?,
            };
            let url = &self.directory.new_account;
            let protected =
                json!({ "alg": "ES256", "jwk": jwk(self.key), "nonce": nonce, "url": url });
            let message = signed(&protected, &payload.to_string(), |text| {
                let signature = self.key.sign(&SystemRandom::new(), text);
                signature.map(|it| it.as_ref().to_vec()).unwrap_or_default()
            });
            let request = Request::post(url)
                .header(CONTENT_TYPE, "application/jose+json")
                .body(BodyWrapper::from(message.to_string().into_bytes()))?;
            let response = self.client.request(request).await?;
            let (parts, mut body) = (response.parts, response.body);
            self.nonce = nonce_of(&parts.headers);
            if parts.status.is_success() {
                let location = parts.headers.get(LOCATION).and_then(|it| it.to_str().ok());
                return location.map(str::to_owned).ok_or(Error::Str("no account URL"));
            }
            let problem: Problem =
                serde_json::from_slice(&body.into_bytes().await.map_err(Error::Other)?)?;
            if !is(&problem, "badNonce") || tries == TRIES {
                return Err(Error::Api(problem));
            }
        }
    }

    async fn fresh(&self) -> Result<String, Error> {
        let url = &self.directory.new_nonce;
        let request =
            Request::builder().method(Method::HEAD).uri(url).body(BodyWrapper::default())?;
        let (headers, _) = answer(self.client, request).await?;
        nonce_of(&headers).ok_or(Error::Str("no nonce"))
    }
}

/// Sends a request that is not signed.
async fn answer(
    client: &impl HttpClient,
    request: Request<BodyWrapper<Bytes>>,
) -> Result<(HeaderMap, Bytes), Error> {
    let response = client.request(request).await?;
    let (parts, mut body) = (response.parts, response.body);
    let body = body.into_bytes().await.map_err(Error::Other)?;
    if parts.status.is_success() {
        return Ok((parts.headers, body));
    }
    Err(Error::Api(serde_json::from_slice(&body)?))
}

fn nonce_of(headers: &HeaderMap) -> Option<String> {
    headers.get("replay-nonce")?.to_str().ok().map(str::to_owned)
}

fn is(problem: &Problem, kind: &str) -> bool {
    problem.r#type.as_deref().is_some_and(|it| it.rsplit(':').next() == Some(kind))
}

/// The public key: RFC 7517, RFC 7518 section 6.2.1.
fn jwk(key: &EcdsaKeyPair) -> Value {
    // 4 || x || y, of 32 octets each.
    let (x, y) = key.public_key().as_ref().get(1..).unwrap_or_default().split_at(32);
    json!({ "crv": "P-256", "kty": "EC", "x": encode(x), "y": encode(y) })
}

/// The account's public key, signed with the CA's MAC key.
fn bound(binding: &Binding, jwk: &Value, new_account: &str) -> Value {
    let protected = json!({ "alg": "HS256", "kid": binding.kid, "url": new_account });
    let key = hmac::Key::new(hmac::HMAC_SHA256, &binding.hmac);
    signed(&protected, &jwk.to_string(), |text| hmac::sign(&key, text).as_ref().to_vec())
}

/// RFC 7515 section 7.2.2.
fn signed(protected: &Value, payload: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> Value {
    let protected = encode(protected.to_string().as_bytes());
    let payload = encode(payload.as_bytes());
    let signature = encode(&sign(format!("{protected}.{payload}").as_bytes()));
    json!({ "protected": protected, "payload": payload, "signature": signature })
}

fn encode(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::{Arc, Mutex};

    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
    use http::Response;
    use http_body_util::{BodyExt as _, Full};
    use instant_acme::BytesResponse;

    use super::*;

    /// A CA that knows no account, wants a binding, and refuses the first `stale` nonces.
    #[derive(Clone, Default)]
    struct FakeCa {
        stale: Arc<Mutex<u32>>,
        /// Messages it took, decoded: protected, payload.
        taken: Arc<Mutex<Vec<(Value, Value)>>>,
    }

    fn decoded(text: &Value) -> Vec<u8> {
        BASE64_URL_SAFE_NO_PAD.decode(text.as_str().expect("a text")).expect("base64url")
    }

    fn object(text: &Value) -> Value {
        serde_json::from_slice(&decoded(text)).expect("JSON")
    }

    impl FakeCa {
        fn answer(&self, path: &str, body: &[u8]) -> Response<String> {
            let response = Response::builder().header("replay-nonce", "fresh");
            let problem = |kind: &str| {
                let kind = format!("urn:ietf:params:acme:error:{kind}");
                json!({ "type": kind, "detail": "no" }).to_string()
            };
            if path == "/dir" {
                let urls =
                    json!({ "newNonce": "https://ca/nonce", "newAccount": "https://ca/new" });
                return response.body(urls.to_string()).expect("a response");
            }
            if path == "/nonce" {
                return response.body(String::new()).expect("a response");
            }
            let mut stale = self.stale.lock().expect("a lock");
            if *stale > 0 {
                *stale -= 1;
                return response.status(400).body(problem("badNonce")).expect("a response");
            }
            let message: Value = serde_json::from_slice(body).expect("JSON");
            let (protected, payload) = (object(&message["protected"]), object(&message["payload"]));
            let key = &protected["jwk"];
            let point = [vec![4], decoded(&key["x"]), decoded(&key["y"])].concat();
            let text =
                [&message["protected"], &message["payload"]].map(|it| it.as_str().expect("it"));
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                .verify(text.join(".").as_bytes(), &decoded(&message["signature"]))
                .expect("the account's signature");
            self.taken.lock().expect("a lock").push((protected, payload.clone()));
            if payload["onlyReturnExisting"] == true {
                let none = problem("accountDoesNotExist");
                return response.status(400).body(none).expect("a response");
            }
            response
                .status(201)
                .header(LOCATION, "https://ca/acct/1")
                .body(String::new())
                .expect("it")
        }
    }

    impl HttpClient for FakeCa {
        fn request(
            &self,
            request: Request<BodyWrapper<Bytes>>,
        ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
            let ca = self.clone();
            Box::pin(async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.expect("a body").to_bytes();
                let answer = ca.answer(head.uri.path(), &body);
                Ok(BytesResponse::from(answer.map(|it| Full::new(Bytes::from(it)))))
            })
        }
    }

    fn key() -> Vec<u8> {
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .expect("a key")
            .as_ref()
            .to_vec()
    }

    #[tokio::test]
    async fn r_acc_the_binding_is_the_accounts_key_under_the_cas_mac() {
        let ca = FakeCa { stale: Arc::new(Mutex::new(2)), ..FakeCa::default() };
        let binding = Binding::read("kid-1", "c2VjcmV0LWtleS1vZi10aGUtY2E=\n").expect("a binding");
        assert_eq!(binding.hmac, b"secret-key-of-the-ca");
        assert!(!format!("{binding:?}").contains("secret"), "{binding:?}");
        let url = register(&ca, "https://ca/dir", &key(), Some("a@b.test"), &binding).await;
        assert_eq!(url.expect("an account"), "https://ca/acct/1");
        let taken = ca.taken.lock().expect("a lock");
        let [_, (protected, payload)] = &taken[..] else { panic!("{taken:?}") };
        assert_eq!(payload["contact"], json!(["mailto:a@b.test"]));
        let bound = &payload["externalAccountBinding"];
        assert_eq!(object(&bound["payload"]), protected["jwk"]);
        let expected = json!({ "alg": "HS256", "kid": "kid-1", "url": "https://ca/new" });
        assert_eq!(object(&bound["protected"]), expected);
        let text = [&bound["protected"], &bound["payload"]].map(|it| it.as_str().expect("it"));
        let key = hmac::Key::new(hmac::HMAC_SHA256, &binding.hmac);
        hmac::verify(&key, text.join(".").as_bytes(), &decoded(&bound["signature"]))
            .expect("a MAC");
    }

    #[tokio::test]
    async fn r_acc_a_storm_of_bad_nonces_ends() {
        let ca = FakeCa { stale: Arc::new(Mutex::new(100)), ..FakeCa::default() };
        let binding = Binding { kid: "a".into(), hmac: vec![1] };
        let result = register(&ca, "https://ca/dir", &key(), None, &binding).await;
        assert!(matches!(result, Err(Error::Api(it)) if is(&it, "badNonce")));
        assert_eq!(*ca.stale.lock().expect("a lock"), 100 - TRIES);
    }

    #[test]
    fn r_acc_a_mac_key_is_base64url() {
        for (text, expected) in [
            ("_-8", Some(vec![0xff, 0xef])),
            ("/+8=", Some(vec![0xff, 0xef])),
            ("", None),
            ("not base64!", None),
        ] {
            assert_eq!(Binding::read("kid", text).map(|it| it.hmac), expected, "{text}");
        }
    }
}
