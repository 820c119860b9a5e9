//! Network policies that may let less through than those before.

use std::collections::BTreeSet;

use super::super::artifacts::Artifacts;
use super::super::flows;
use super::{Disruption, in_table};
use crate::dataplane::origin::Cookie;
use crate::pipeline::Table;

/// A project some of whose pods may no longer get or send all that they did. New permissions alone
/// disturb nobody.
pub(super) fn forbidden(
    artifacts: &Artifacts,
    known: &BTreeSet<Cookie>,
    before: Option<&str>,
    after: Option<&str>,
) -> Option<Disruption> {
    let flow = before.or(after)?;
    let closes = if in_table(flow, Table::PolicyEgress) || in_table(flow, Table::Isolation) {
        permits_less(before, after)
    } else if in_table(flow, Table::FromPod) || in_table(flow, Table::LocalPod) {
        isolates(before, after)
    } else {
        false
    };
    if !closes {
        return None;
    }
    let group = flows::cookie(flow)?.group();
    if !known.contains(&group) {
        return None; // it comes with this change
    }
    let mut objects = artifacts.objects().iter();
    let (_, policies) =
        objects.find(|(cookie, name)| cookie.group() == group && name.starts_with("policies "))?;
    let effect = "they change: what they no longer allow ends at once";
    Some(Disruption::new(policies, effect))
}

/// Whether a rule, or a part of one, is gone.
fn permits_less(before: Option<&str>, after: Option<&str>) -> bool {
    let Some(before) = before else { return false };
    if after.is_some_and(goes_on) {
        return false;
    }
    let parts = |flow: &str| -> BTreeSet<String> {
        flow.split("conjunction(")
            .skip(1)
            .map(|part| part.trim_matches([',', ')']).into())
            .collect()
    };
    let after = after.map(parts).unwrap_or_default();
    goes_on(before) || parts(before).iter().any(|part| !after.contains(part))
}

fn goes_on(flow: &str) -> bool {
    let to = |table: Table| flow.ends_with(&format!("actions=goto_table:{}", table.number()));
    to(Table::PolicyRoute) || to(Table::PolicyCommit)
}

/// Whether a pod that was there is isolated from now on.
fn isolates(before: Option<&str>, after: Option<&str>) -> bool {
    let (Some(before), Some(after)) = (before, after) else { return false };
    let isolated = |flow: &str| flow.contains("0x3->reg4") || flow.contains("0x3->reg5");
    isolated(after) && !isolated(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAUSE: &str = "cookie=0x1, table=80, priority=100,ip,reg1=0xa,reg2=0xb actions=";

    #[test]
    fn one_more_rule_permits_no_less() {
        let flow = |actions: &str| format!("{CLAUSE}{actions}");
        let one = flow("conjunction(7,1/3)");
        let two = flow("conjunction(7,1/3),conjunction(9,1/2)");
        let all = flow("goto_table:84");
        assert!(!permits_less(Some(&one), Some(&two)));
        assert!(permits_less(Some(&two), Some(&one)));
        assert!(!permits_less(Some(&two), Some(&all)));
        assert!(permits_less(Some(&all), Some(&two)));
        assert!(permits_less(Some(&one), None));
        assert!(!permits_less(None, Some(&one)));
    }
}
