//! What the snippets of a host and of an Ingress come to for one route.

use std::net::IpAddr;

use http::StatusCode;
use http::header::HeaderName;
use ipnet::IpNet;

use super::{Directive, Place};
use crate::model::phrase::Phrase;

/// What the snippets of a host and of an Ingress come to for one route.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Translated {
    /// Paths of the host that are closed, and what they are answered with.
    pub places: Vec<(Place, StatusCode)>,
    /// What everything on the host is answered with.
    pub server_return: Option<(StatusCode, Option<Phrase>)>,
    /// What everything on the route is answered with.
    pub route_return: Option<(StatusCode, Option<Phrase>)>,
    /// Who may pass, in order; `None` for everybody. The first that is about a client decides.
    pub networks: Vec<(bool, Option<IpNet>)>,
    /// What is set, added and cleared in the answer, in order.
    pub answer: Vec<Directive>,
    /// What an endpoint gets.
    pub request: Vec<(HeaderName, Phrase)>,
}

impl Translated {
    /// Puts a host's snippet and an Ingress's together as nginx has a location inherit from its server.
    pub fn new(server: &[Directive], location: &[Directive]) -> Self {
        let mut all = Self::default();
        let is_added = |it: &&Directive| matches!(it, Directive::AddToAnswer(..));
        let is_network = |it: &&Directive| matches!(it, Directive::Network { .. });
        let adds = location.iter().any(|it| is_added(&it));
        let limits = location.iter().any(|it| is_network(&it));
        for it in server {
            match it {
                Directive::Location { place, status } => all.places.push((place.clone(), *status)),
                Directive::Return(status, text) => {
                    all.server_return.get_or_insert_with(|| (*status, text.clone()));
                }
                // Of these a location has its own or its server's.
                other if (adds && is_added(&other)) || (limits && is_network(&other)) => {}
                other => all.take(other),
            }
        }
        for it in location {
            match it {
                Directive::Return(status, text) => {
                    all.route_return.get_or_insert_with(|| (*status, text.clone()));
                }
                other => all.take(other),
            }
        }
        all
    }

    fn take(&mut self, it: &Directive) {
        match it {
            Directive::Network { allow, network } => self.networks.push((*allow, *network)),
            Directive::SetInRequest(name, value) => {
                self.request.push((name.clone(), value.clone()));
            }
            Directive::Return(..) | Directive::Location { .. } => {}
            answer => self.answer.push(answer.clone()),
        }
    }

    /// Whether a client's address may pass.
    pub fn lets_pass(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let about = |network: &Option<IpNet>| network.is_none_or(|it| it.contains(&address));
        self.networks.iter().find(|(_, it)| about(it)).is_none_or(|(allow, _)| *allow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::snippet::{Context, Snippets, read};

    #[test]
    fn a_location_inherits_from_its_server_as_in_nginx() {
        let made = |server: &str, location: &str| {
            let mut snippets = Snippets::default();
            read(server, Context::Server, &mut snippets).expect("a server's");
            read(location, Context::Location, &mut snippets).expect("a location's");
            Translated::new(&snippets.server, &snippets.location)
        };
        let both = made("add_header X-A 1; more_set_headers 'X-B: 2';", "add_header X-C 3;");
        assert_eq!(both.answer.len(), 2, "{both:?}");
        assert_eq!(made("add_header X-A 1;", "more_set_headers 'X-B: 2';").answer.len(), 2);
        for (server, location, address, passes) in [
            ("", "", "192.0.2.1", true),
            ("deny all;", "", "192.0.2.1", false),
            ("deny all;", "allow 192.0.2.0/24;", "192.0.2.1", true),
            ("", "allow 192.0.2.0/24; deny all;", "192.0.2.1", true),
            ("", "allow 192.0.2.0/24; deny all;", "::ffff:192.0.2.1", true),
            ("", "allow 192.0.2.0/24; deny all;", "198.51.100.1", false),
            ("", "deny 192.0.2.1; allow all;", "192.0.2.1", false),
        ] {
            let translated = made(server, location);
            let address = address.parse().expect("an address");
            assert_eq!(translated.lets_pass(address), passes, "{server} {location} {address}");
        }
    }

    #[test]
    fn a_closed_place_is_closed_however_it_is_spelled() {
        for (block, path, closed) in [
            ("location ^~ \"/top secret\" { deny all; }", "/top%20secret/x", true),
            ("location = /a%3Ab { deny all; }", "/a:b", true),
            ("location /x/ { deny all; }", "/x/y", true),
            ("location /x/ { deny all; }", "/xy", false),
            ("location ~ \"/int ernal\" { deny all; }", "/int%20ernal", true),
            ("location ~ /\\.git { deny all; }", "/a/.git/config", true),
            ("location ~ /\\.git { deny all; }", "/a/git", false),
        ] {
            let mut snippets = Snippets::default();
            read(block, Context::Server, &mut snippets).expect(block);
            let translated = Translated::new(&snippets.server, &[]);
            let found = translated.places.iter().any(|(it, _)| it.has(path));
            assert_eq!(found, closed, "{block} {path}");
        }
    }
}
