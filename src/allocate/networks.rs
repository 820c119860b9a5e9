//! Who shares whose network, and who did: so that joins are safe while nodes are changed one after
//! the other.
//!
//! Joined projects share one VNID. While some nodes run the generation before a change and some
//! the one after it, a project that has left a network is still taken for a member by the former.
//! If another joins in the same change, the two reach each other, although they are separate in
//! both generations. So the lock file keeps who has left, as it keeps retired VNIDs.

use std::collections::BTreeMap;

use crate::diagnostic::{Code, Diagnostic, Report};
use crate::intent::{Intent, Membership};
use crate::lock::Lock;
use crate::value::Vnid;

/// The sections `joined` and `left` of the lock file.
#[derive(Debug, Default)]
pub(super) struct Networks {
    /// By the name of each joined project, that of the project whose network it shares.
    pub(super) joined: BTreeMap<String, String>,
    /// By `project/network`, the VNID of the network that the project has left.
    pub(super) left: BTreeMap<String, Vnid>,
}

/// The networks as they are now. RF105: nobody joins a network that somebody has just left.
pub(super) fn networks(
    intent: &Intent,
    vnids: &[Vnid],
    lock: &Lock,
    prune: bool,
    report: &mut Report,
) -> Networks {
    let mut networks = Networks::default();
    if !prune {
        networks.left.clone_from(&lock.former_members);
    }
    for (_, project) in intent.projects() {
        if let Membership::Joined(root) = project.membership {
            networks.joined.insert(project.name.to_string(), intent[root].name.to_string());
        }
    }
    for (member, root) in &lock.memberships {
        if let (false, Some(vnid)) =
            (networks.joined.get(member) == Some(root), lock.vnids.get(root))
        {
            networks.left.insert(format!("{member}/{root}"), *vnid);
        }
    }
    for (id, project) in intent.projects() {
        let Membership::Joined(root) = project.membership else { continue };
        let (name, network) = (project.name.as_str(), intent[root].name.as_str());
        // Whoever comes back, or was never away, was together with all others.
        let back = networks.left.remove(&format!("{name}/{network}")).is_some();
        if back || lock.memberships.get(name).is_some_and(|before| before == network) {
            continue;
        }
        let vnid = vnids[root.index()];
        let mut others = networks.left.iter().filter(|(_, left)| **left == vnid);
        if let Some((member, _)) = others.find_map(|(key, _)| key.split_once('/')) {
            let message = format!(
                "the project `{name}` joins the network of `{network}`, which `{member}` has left"
            );
            report.push(Diagnostic::new(Code::NetworkLeft, message).at(intent[id].place).help(
                format!(
                    "nodes that still run an older generation would let `{member}` reach \
                     `{name}`; once all nodes run one without it, run `ringfence lock --prune`, \
                     and then join `{name}`"
                ),
            ));
        }
    }
    networks
}
