//! The proxies of egress routers: which programs they are, and where they have their files.

use serde::{Deserialize, Serialize};

use super::host;
use crate::dataplane::origin::Cookie;
use crate::value::Name;

/// The program of a proxying egress router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proxy {
    /// An HTTP proxy.
    Squid,
    /// A TCP proxy that resolves names.
    Haproxy,
}

impl Proxy {
    /// The name of the executable.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::Squid => "squid",
            Self::Haproxy => "haproxy",
        }
    }

    /// The name of its configuration, in the output and on the node.
    #[must_use]
    pub const fn config(self) -> &'static str {
        match self {
            Self::Squid => "squid.conf",
            Self::Haproxy => "haproxy.cfg",
        }
    }
}

/// Where a router's proxy has its files on the node. They go with a reboot, as its namespace does.
#[must_use]
pub fn run_directory(router: &Name) -> String {
    format!("{}/{}{router}", host::RUN, host::ROUTER_SERVICE_PREFIX)
}

/// The name of the systemd unit of a router.
#[must_use]
pub fn unit(router: &str) -> String {
    format!("{}{router}.service", host::ROUTER_SERVICE_PREFIX)
}

/// The name by which several squids on one machine tell their shared memory apart: letters and
/// digits only.
#[must_use]
pub fn squid_name(cookie: Cookie) -> String {
    format!("rf{:016x}", cookie.get())
}
