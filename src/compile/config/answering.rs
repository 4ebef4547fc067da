//! Keys about answers on their way to clients.

use http::HeaderName;

use super::{Key, default_of, key, truth};
use crate::compile::annotation;
use crate::compile::objects::ConfigMap;
use crate::model::name::ObjectName;
use crate::model::value::entries_of;

const CONFIG_MAP: &str = "a ConfigMap as namespace/name";

pub(super) const KEYS: &[Key] = &[
    key(
        "add-headers",
        "ConfigMap, as namespace/name, with header fields for every answer.",
        |value, it| {
            it.fields.add_headers = config_map(value)?;
            Ok(())
        },
    ),
    key(
        "proxy-set-headers",
        "ConfigMap, as namespace/name, with header fields for every endpoint; values may have variables.",
        |value, it| {
            it.fields.set_headers = config_map(value)?;
            Ok(())
        },
    ),
    key("hide-headers", "Header fields of endpoints that clients do not get.", |value, it| {
        it.fields.hidden = names(value)?;
        Ok(())
    }),
    key("global-allowed-response-headers", "What custom-headers may set.", |value, it| {
        it.fields.allowed = names(value)?;
        Ok(())
    }),
    key("proxy-add-original-uri-header", "Send X-Original-URI to endpoints.", |value, it| {
        it.fields.original_uri = truth(value)?;
        Ok(())
    }),
    key("custom-http-errors", "Default of the annotation.", |value, it| match value {
        "" => Ok(()),
        value => annotation::set("custom-http-errors", value, &mut it.options),
    }),
    default_of("disable-proxy-intercept-errors"),
    default_of("proxy-cookie-domain"),
    default_of("proxy-cookie-path"),
    default_of("proxy-redirect-from"),
    default_of("proxy-redirect-to"),
];

/// The ConfigMaps that another one names as settings.
pub fn maps_named_by(map: &ConfigMap) -> impl Iterator<Item = ObjectName> {
    let named = ["add-headers", "proxy-set-headers"].into_iter().filter_map(|it| map.data.get(it));
    named.filter_map(|it| config_map(it.trim()).ok().flatten())
}

fn config_map(text: &str) -> Result<Option<ObjectName>, &'static str> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| CONFIG_MAP)
}

fn names(text: &str) -> Result<Vec<HeaderName>, &'static str> {
    let names = entries_of(text);
    names.map(str::parse).collect::<Result<_, _>>().map_err(|_| "a list of header fields' names")
}
