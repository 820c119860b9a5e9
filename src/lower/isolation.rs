//! Table 80: projects reach themselves, what they are joined with, and what is global. With network
//! policies, these decide: [`network_policy`](super::network_policy).

use std::collections::BTreeMap;

use super::Builder;
use crate::dataplane::openflow::{Action, Match};
use crate::intent::{Membership, ProjectId};
use crate::pipeline::Table;
use crate::spec::Mode;

pub(super) fn lower(builder: &mut Builder<'_>) {
    let model = builder.model;
    let cluster = model.cluster_subject();
    let table = Table::Isolation;
    let output = || vec![Action::OutputRegister];
    match model.mode() {
        Mode::Networkpolicy => return super::network_policy::lower(builder),
        Mode::Subnet => {
            builder.flow(cluster, table, 100, Match::default(), output());
        }
        Mode::Multitenant => {
            let global = Some(0);
            let from = Match { source: global, ..Match::default() };
            builder.flow(cluster, table, 300, from, output());
            let to = Match { destination: global, ..Match::default() };
            builder.flow(cluster, table, 200, to, output());
            for (vnid, project) in local_networks(builder) {
                let matches =
                    Match { source: Some(vnid), destination: Some(vnid), ..Match::default() };
                builder.flow(model.project_subject(project), table, 100, matches, output());
            }
        }
    }
    builder.default(table, vec![]);
}

/// The networks that pods of this node are in, each with the project that it is named for.
fn local_networks(builder: &Builder<'_>) -> BTreeMap<u32, ProjectId> {
    let model = builder.model;
    let network = |workload| {
        let project = model.project(workload);
        let named_for = match model.intent()[project].membership {
            Membership::Own => project,
            Membership::Joined(root) => root,
            Membership::Global => return None,
        };
        Some((model.vnid(project).get(), named_for))
    };
    model.workloads(builder.node).filter_map(network).collect()
}
