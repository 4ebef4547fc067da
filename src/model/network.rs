//! Networks that addresses are in or not: whom to trust, whom to let in.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::value::entries_of;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A set of networks; empty by default.
///
/// An IPv4 address written as an IPv6 one (`::ffff:10.0.0.1`, RFC 4291 section 2.5.5.2) is that IPv4
/// address, on either side: `::/0` holds no IPv4 address, however it is written.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Networks {
    /// In order, none within another.
    networks: Box<[IpNet]>,
}

/// What is wrong with a host that [`names_near`]; completes "127.0.0.1 ...".
pub const NEAR: &str =
    "is this machine or its link, where nobody is asked for objects of a cluster";

/// Whether an address is this machine's own or on its link only: loopback, unspecified or link-local, as an
/// IPv6 address that stands for an IPv4 one, too. The API server takes none of them for an endpoint's; behind
/// them are our own admin port and, in clouds, the metadata service.
pub fn is_near(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(it) => it.is_loopback() || it.is_unspecified() || it.is_link_local(),
        IpAddr::V6(it) => it.is_loopback() || it.is_unspecified() || it.is_unicast_link_local(),
    }
}

/// Whether a host says by itself that it [is near](is_near): as an address, in brackets or not, or as a name
/// that can mean nothing else (RFC 6761 section 6.3).
pub fn names_near(host: &str) -> bool {
    if let Ok(address) = host.trim_matches(['[', ']']).parse() {
        return is_near(address);
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// Why a text is not a list of networks.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is neither an address nor a network such as 10.0.0.0/8")]
pub struct NetworkError(pub String);

impl FromIterator<IpNet> for Networks {
    fn from_iter<I: IntoIterator<Item = IpNet>>(networks: I) -> Self {
        let networks: Vec<IpNet> = networks.into_iter().map(|it| canonical(it.trunc())).collect();
        let mut networks = IpNet::aggregate(&networks);
        networks.sort_unstable();
        Self { networks: networks.into() }
    }
}

impl FromStr for Networks {
    type Err = NetworkError;

    /// Takes addresses and networks between commas, as ingress-nginx does; nothing between two commas is
    /// nothing. Bits behind a network's prefix do not matter.
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let entries = entries_of(text);
        entries.map(|it| network(it).ok_or_else(|| NetworkError(it.to_owned()))).collect()
    }
}

impl Networks {
    /// Every address there is.
    pub fn all() -> Self {
        let v4 = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
        let v6 = Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0);
        [IpNet::V4(v4), IpNet::V6(v6)].into_iter().collect()
    }

    /// Whether an address is in one of them. Takes a binary search.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let after = self.networks.partition_point(|it| it.network() <= address);
        after.checked_sub(1).is_some_and(|it| self.networks[it].contains(&address))
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, network) in self.networks.iter().enumerate() {
            let comma = if number > 0 { ", " } else { "" };
            write!(f, "{comma}{network}")?;
        }
        Ok(())
    }
}

fn network(text: &str) -> Option<IpNet> {
    match text.parse::<IpAddr>() {
        Ok(address) => Some(address.into()),
        Err(_) => text.parse().ok(),
    }
}

/// The IPv4 network that an IPv6 one of mapped addresses stands for.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network };
    let prefix = v6.prefix_len().checked_sub(96);
    let mapped = v6.addr().to_ipv4_mapped().zip(prefix);
    match mapped.and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok()) {
        Some(v4) => IpNet::V4(v4),
        None => network,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_is_what_no_endpoint_may_be() {
        for (host, expected) in [
            ("127.0.0.1", true),
            ("127.255.0.9", true),
            ("0.0.0.0", true),
            ("169.254.169.254", true),
            ("::1", true),
            ("[::1]", true),
            ("::", true),
            ("fe80::1", true),
            ("[febf:ffff::1]", true),
            ("::ffff:127.0.0.1", true),
            ("[::ffff:169.254.169.254]", true),
            ("::ffff:0.0.0.0", true),
            ("localhost", true),
            ("LocalHost.", true),
            ("app.localhost", true),
            ("10.0.0.1", false),
            ("169.253.0.1", false),
            ("192.168.0.1", false),
            ("::ffff:10.0.0.1", false),
            ("fec0::1", false),
            ("fd00::1", false),
            ("2001:db8::1", false),
            ("localhost.test", false),
            ("notlocalhost", false),
            ("auth.test", false),
            ("", false),
        ] {
            assert_eq!(names_near(host), expected, "{host:?}");
        }
    }

    #[test]
    fn a_list_is_of_addresses_and_networks() {
        for (text, expected) in [
            ("", Ok("")),
            (" , ", Ok("")),
            ("10.0.0.0/8", Ok("10.0.0.0/8")),
            ("10.1.2.3/8, 192.0.2.1", Ok("10.0.0.0/8, 192.0.2.1/32")),
            ("2001:db8::/32,::1", Ok("::1/128, 2001:db8::/32")),
            ("::ffff:10.1.2.3/104", Ok("10.0.0.0/8")),
            ("::ffff:10.0.0.1", Ok("10.0.0.1/32")),
            ("10.0.0.0/9,10.128.0.0/9,10.3.0.0/16", Ok("10.0.0.0/8")),
            ("0.0.0.0/0,::/0", Ok("0.0.0.0/0, ::/0")),
            ("10.0.0.0/8 192.0.2.1", Err("10.0.0.0/8 192.0.2.1")),
            ("10.0.0.0/33", Err("10.0.0.0/33")),
            ("10.0.0/8", Err("10.0.0/8")),
            ("10.0.0.1:80", Err("10.0.0.1:80")),
            ("10.0.0.0/8,all", Err("all")),
        ] {
            let networks = text.parse::<Networks>().map(|it| it.to_string());
            let expected = expected.map(str::to_owned);
            assert_eq!(networks.map_err(|it| it.0), expected.map_err(str::to_owned), "{text:?}");
        }
        assert_eq!(Networks::all().to_string(), "0.0.0.0/0, ::/0");
    }

    #[test]
    fn an_address_is_in_or_out_however_it_is_written() {
        const LIST: &str = "10.0.0.0/8, 192.0.2.0/24, 192.0.2.128/25, 2001:db8::/32, ::1";
        let networks: Networks = LIST.parse().expect("a list");
        for (address, expected) in [
            ("9.255.255.255", false),
            ("10.0.0.0", true),
            ("10.255.255.255", true),
            ("11.0.0.0", false),
            ("192.0.2.1", true),
            ("192.0.2.255", true),
            ("192.0.3.0", false),
            ("::ffff:10.1.2.3", true),
            ("::ffff:11.1.2.3", false),
            ("::1", true),
            ("::2", false),
            ("2001:db8:ffff::1", true),
            ("2001:db9::", false),
        ] {
            let address: IpAddr = address.parse().expect("an address");
            assert_eq!(networks.contains(address), expected, "{address}");
            assert!(Networks::all().contains(address), "{address}");
            assert!(!Networks::default().contains(address), "{address}");
        }
        let all_of_v6: Networks = "::/0".parse().expect("a list");
        assert!(!all_of_v6.contains("::ffff:10.0.0.1".parse().expect("an address")));
    }
}
