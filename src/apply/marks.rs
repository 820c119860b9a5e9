//! By what ringfence knows its own links and network namespaces, and how they get it.
//!
//! A mark is on the object itself, and is there as soon as the object has its name: a namespace gets
//! its name only after its `lo` has the alias, and a veth is made in a group of links, which holds
//! until it has its own alias. So what was made half by a run that was killed is known by itself, and
//! what somebody else makes under a name of ours meanwhile is not taken for it.

use std::path::Path;

use super::links::Links;
use crate::artifact::host;
use crate::diagnostic::{Code, Diagnostic};
use crate::system::guard::Guard;
use crate::system::netlink::{Link, Network};
use crate::system::{Command, System, Tool};
use crate::value::{InterfaceName, NetnsName};

/// Begins the aliases of links that are ringfence's, and of `lo` in namespaces that are.
pub(super) const ALIAS: &str = "ringfence ";
/// The alias of `lo` in namespaces that versions before the first release made.
const OLD_NETNS_ALIAS: &str = "ringfence";
/// The group of links in which veths are made, before they have their alias.
pub(super) const GROUP: u32 = 0x7266;

/// Makes a network namespace with its mark, and only then gives it its name, which nobody else may
/// have. The names are its arguments.
const MAKE: &str = r#"set -e
for name; do
	unshare --net sh -ec 'ip link set lo up alias "ringfence $1"; exec ip netns attach "$1" $$' sh "$name"
done
"#;

/// The alias of `lo` in a namespace of this name that ringfence made.
pub(super) fn of_namespace(name: &str) -> String {
    format!("{ALIAS}{name}")
}

/// The alias by which ringfence made the namespace of this name, if it did. A further name of the
/// same namespace is somebody else's.
pub(super) fn namespace_alias<'n>(name: &str, network: &'n Network) -> Option<&'n str> {
    let alias = network.links.get("lo")?.alias.as_deref()?;
    (alias == OLD_NETNS_ALIAS || alias == of_namespace(name)).then_some(alias)
}

/// Whose a veth of ringfence's is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VethOwner<'l> {
    /// The owner that its alias names.
    Named(&'l str),
    /// An interrupted run could not give it its alias any more.
    InterruptedRun,
}

impl<'l> VethOwner<'l> {
    /// The same in words.
    pub(super) fn words(self) -> &'l str {
        match self {
            Self::Named(owner) => owner,
            Self::InterruptedRun => "an interrupted run",
        }
    }
}

/// Whose veth this is, if ringfence made it: all marks have to be there.
pub(super) fn veth_owner<'l>(name: &str, link: &'l Link) -> Option<VethOwner<'l>> {
    let digits = name.strip_prefix(host::VETH_PREFIX)?;
    let named = digits.len() == 12 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !named || link.kind.as_deref() != Some("veth") {
        return None;
    }
    match link.alias.as_deref() {
        Some(alias) => alias.strip_prefix(ALIAS).map(VethOwner::Named),
        None => (link.group == GROUP).then_some(VethOwner::InterruptedRun),
    }
}

/// That a link of the node is still the one that was seen.
pub(super) fn same_link(name: &str, link: &Link) -> Guard {
    Guard::Link { name: name.to_owned(), index: Some(link.index), alias: link.alias.clone() }
}

/// That a link of the node is this owner's, as it is once it was made.
pub(super) fn has_alias(name: &InterfaceName, owner: &str) -> Guard {
    Guard::Link { name: name.to_string(), index: None, alias: Some(format!("{ALIAS}{owner}")) }
}

/// Makes namespaces that are marked as soon as they have their names.
pub(super) fn make_namespaces(names: &[&NetnsName]) -> Option<Command> {
    let words = ["-s", "--"].map(str::to_owned).into_iter();
    let words = words.chain(names.iter().map(ToString::to_string));
    (!names.is_empty()).then(|| Command::change(Tool::Sh, words).stdin(MAKE))
}

/// Removes names that lead to no namespace: the kernel refuses it for one that does.
pub(super) fn remove_names<'n>(names: impl IntoIterator<Item = &'n str>) -> Option<Command> {
    let paths: Vec<String> =
        names.into_iter().map(|name| format!("{}/{name}", host::NETNS)).collect();
    let words = ["-f", "--"].map(str::to_owned).into_iter();
    (!paths.is_empty()).then(|| Command::remove(Tool::Rm, words.chain(paths)))
}

/// Whether a name leads to no namespace and is an empty file, as a kill of `ip netns add` leaves it.
pub(super) fn is_bare_name(name: &str, system: &dyn System) -> bool {
    let file = system.file(&Path::new(host::NETNS).join(name));
    file.is_some_and(|bytes| bytes.is_empty())
}

/// RF206: something else than a namespace has the name that one is to have.
pub(super) fn blocked(name: &str, owner: &str) -> Diagnostic {
    let message = format!("`{}/{name}` of {owner} is no network namespace", host::NETNS);
    Diagnostic::new(Code::NotOurs, message).help("remove it, or name another namespace for the pod")
}

/// RF206: in a namespace of somebody else's, an interface is where ours is to be.
pub(super) fn foreign_inside(netns: &NetnsName, interface: &str, owner: &str) -> Diagnostic {
    let message = format!(
        "the namespace `{netns}` of {owner} has an interface `{interface}` of another origin"
    );
    Diagnostic::new(Code::NotOurs, message).help("remove it, or name another namespace for the pod")
}

/// The same command, if the namespace in which it works is still ringfence's where it was, or was
/// just made. In one of somebody else's it changes what is ringfence's there.
pub(super) fn within(command: Command, netns: &NetnsName, links: &Links) -> Command {
    let name = netns.as_str();
    let alias = match links.netns.get(name) {
        None => Some(of_namespace(name)),
        Some(network) => namespace_alias(name, network).map(str::to_owned),
    };
    match alias {
        Some(alias) => command.only_if([Guard::Namespace { name: netns.clone(), alias }]),
        None => command,
    }
}
