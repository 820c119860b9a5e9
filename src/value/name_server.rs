//! Where a name server listens.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::{Invalid, Port, StringValue, string_value};
use crate::diagnostic::{Code, quoted};

/// The address of a name server, with its port where that isn't 53.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NameServer(pub SocketAddr);

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.port() == Port::DNS.get() { self.0.ip().fmt(f) } else { self.0.fmt(f) }
    }
}

impl StringValue for NameServer {
    const FORMAT: &'static str = "name-server";

    fn parse(text: &str) -> Result<Self, Invalid> {
        let alone = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, Port::DNS.get()));
        match alone.or_else(|_| text.parse::<SocketAddr>()) {
            Ok(server) if server.port() != 0 && !server.ip().is_unspecified() => Ok(Self(server)),
            _ => {
                let message = format!("{} is not the address of a name server", quoted(text));
                Err(Invalid::new(Code::BadAddress, message)
                    .help("write its address, such as 192.168.12.53, or 192.168.12.53:5353"))
            }
        }
    }
}

string_value!(
    NameServer,
    "the address of a name server, with its port where that isn't 53",
    r"^([0-9]{1,3}(\.[0-9]{1,3}){3}(:[0-9]{1,5})?|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*|\[[0-9a-fA-F:.]+\]:[0-9]{1,5})$",
    "192.168.12.53"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_print_as_they_are_written() {
        for text in ["192.168.12.53", "192.168.12.53:5353", "2001:db8::53", "[2001:db8::53]:5353"] {
            assert_eq!(
                NameServer::parse(text).map(|server| server.to_string()).as_deref(),
                Ok(text)
            );
        }
        for text in ["", "dns.example.com", "192.168.12.53:0", "192.168.12.53:99999", "0.0.0.0"] {
            assert!(NameServer::parse(text).is_err(), "{text}");
        }
    }
}
