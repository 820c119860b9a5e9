//! The node as it is: everything that a run compares, read at once.

use std::collections::BTreeMap;

use super::artifacts::Artifacts;
use super::difference::Difference;
use super::links::{Links, Namespaces};
use super::ovsdb::Database;
use super::{datapath, firewall, flows, gateway, groups, meters, proxies, rulesets, switch};
use crate::diagnostic::{Code, Diagnostic};
use crate::system::netlink::holdings::Holdings;
use crate::system::{System, both};

/// The node as it is.
pub(super) struct Observed {
    pub(super) database: Database,
    pub(super) links: Links,
    /// All that hangs on interfaces; nothing where no gateway bridge is there or to be.
    pub(super) holdings: Holdings,
    /// What nft prints, by the names of the rulesets.
    pub(super) listings: BTreeMap<String, Option<Vec<u8>>>,
    /// Where others have hooks of nft in the node's own namespace.
    pub(super) chains: Vec<firewall::Chain>,
    /// `None` where there is no bridge, or none that is open.
    pub(super) flows: Option<flows::Live>,
    /// Whether Open vSwitch could open the bridge, if there is one.
    pub(super) opened: bool,
    pub(super) groups: groups::Groups,
    pub(super) proxies: proxies::Proxies,
    pub(super) meters: meters::Meters,
    /// The bridge as OpenFlow has it; `None` where there is none.
    pub(super) switch: Option<switch::Switch>,
}

impl Observed {
    /// Reads the node; after a change, only what the change touched of flows and namespaces, and
    /// no groups and meters where there are none and never were.
    pub(super) fn read(
        artifacts: &Artifacts,
        changed: Option<&Difference>,
        in_progress: &[String],
        system: &dyn System,
    ) -> Result<Self, Diagnostic> {
        let bridge = artifacts.wiring.bridge.name.as_str();
        let flows = || match changed {
            Some(difference) => flows::Live::touched(system, bridge, &difference.flows),
            None => flows::Live::read(system, bridge),
        };
        let none = Namespaces::new();
        let untouched = changed.map_or(&none, |difference| &difference.untouched);
        let rest = || -> Result<_, Diagnostic> {
            let nodes = || both(|| Database::read(system), || rulesets::listing(system, None));
            let ((database, listing), links) =
                both(nodes, || Links::read(system, in_progress, untouched));
            let (links, (listing, chains)) = (links?, listing?);
            let listings = listings(artifacts, listing, &links, system)?;
            let mut database = database?;
            let gateway = artifacts.wiring.gateway().map(|(bridge, _)| bridge.as_str());
            database.count_foreign_flows(gateway, system);
            let holdings = gateway::holdings(Some(&artifacts.wiring), &database, system)?;
            Ok((database, (links, holdings), (listings, chains), proxies::Proxies::read(system)?))
        };
        let groups = || match changed {
            Some(difference) if !difference.has_groups => Ok(groups::Groups::new()),
            _ => groups::read(system, bridge),
        };
        let meters = || match changed {
            Some(difference) if !difference.has_meters => Ok(meters::Meters::new()),
            _ => meters::read(system, bridge),
        };
        let tables = || both(groups, || (meters(), switch::read(system, bridge)));
        let (rest, (flows, (groups, (meters, switch)))) = both(rest, || both(flows, tables));
        let (database, (links, holdings), (listings, chains), proxies) = rest?;
        let flows = flows?;
        let opened = flows.is_some() || !database.bridges.contains_key(bridge);
        // After a change, there is nothing more that could mend it.
        if !opened && (changed.is_some() || !datapath::answers(system)) {
            let message = format!("Open vSwitch does not answer for its bridge `{bridge}`");
            return Err(Diagnostic::new(Code::OvsNotRunning, message)
                .help("start ovs-vswitchd, or see in its log why it can't open the bridge"));
        }
        let (groups, meters, switch) = (groups?, meters?, switch?);
        Ok(Self {
            database,
            links,
            holdings,
            listings,
            chains,
            flows,
            opened,
            groups,
            proxies,
            meters,
            switch,
        })
    }
}

/// What nft prints in the node's own namespace, and in those of the egress routers.
fn listings(
    artifacts: &Artifacts,
    own: Option<Vec<u8>>,
    links: &Links,
    system: &dyn System,
) -> Result<BTreeMap<String, Option<Vec<u8>>>, Diagnostic> {
    let mut listings = BTreeMap::from([(String::new(), own)]);
    for router in &artifacts.wiring.routers {
        let exists = links.netns.contains_key(router.netns.as_str());
        let listing = if exists { rulesets::listing(system, Some(&router.netns))?.0 } else { None };
        listings.insert(router.name.to_string(), listing);
    }
    Ok(listings)
}
