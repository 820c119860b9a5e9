//! VNIDs of projects.

use std::collections::BTreeMap;

use super::{Allocator, by_name};
use crate::diagnostic::{Code, Diagnostic};
use crate::intent::ProjectId;
use crate::value::Vnid;

impl Allocator<'_> {
    pub(super) fn vnids(&mut self, prune: bool) -> (Vec<Vnid>, BTreeMap<Vnid, String>) {
        let intent = self.intent;
        let mut owners: BTreeMap<Vnid, ProjectId> = BTreeMap::new();
        for (id, project) in intent.projects() {
            if let Some(fixed) = project.fixed_vnid {
                owners.entry(fixed.value).or_insert(id);
            }
        }
        // What this very change retires, nodes still run.
        let mut retired = if prune { BTreeMap::new() } else { self.lock.retired_vnids.clone() };
        let mut numbers: Vec<Option<Vnid>> = Vec::with_capacity(intent.projects().len());
        for (id, project) in intent.projects() {
            let locked = self.lock.vnids.get(project.name.as_str()).copied();
            let number = match (project.fixed_vnid, locked) {
                (Some(fixed), _) => Some(fixed.value),
                (None, Some(locked)) => self.keep_vnid(id, locked, &mut owners),
                (None, None) => None,
            };
            if let Some(locked) = locked.filter(|locked| Some(*locked) != number)
                // A number in conflict is neither's until that is solved.
                && owners.get(&locked).is_none_or(|owner| intent[*owner].fixed_vnid.is_some())
            {
                retired.insert(locked, project.name.to_string());
            }
            numbers.push(number);
        }
        for (name, number) in &self.lock.vnids {
            let known = intent.projects.binary_search_by(|p| p.name.as_str().cmp(name));
            if known.is_err() {
                retired.insert(*number, name.clone());
            }
        }
        self.revive(&mut numbers, &mut retired, &mut owners);
        let mut vnids = Vec::with_capacity(numbers.len());
        for ((id, project), number) in intent.projects().zip(numbers) {
            let taken = |n| owners.contains_key(&n) || retired.contains_key(&n);
            let free = |n: u32| Vnid::new(n.into()).is_ok_and(|vnid| !taken(vnid));
            let key = format!("project/{}", project.name);
            let vnid = number.or_else(|| {
                let number = by_name(&key, Vnid::FIRST, Vnid::LAST, free)?;
                Vnid::new(number.into()).ok()
            });
            match vnid {
                Some(vnid) => {
                    owners.insert(vnid, id);
                    vnids.push(vnid);
                }
                // Fewer projects than VNIDs can be read, so this doesn't happen.
                None => self.report.push(Diagnostic::new(
                    Code::Internal,
                    format!("no VNID is left for the project `{}`", project.name),
                )),
            }
        }
        (vnids, retired)
    }

    /// The VNID of the lock file, unless the desired state gives it to another.
    fn keep_vnid(
        &mut self,
        project: ProjectId,
        locked: Vnid,
        owners: &mut BTreeMap<Vnid, ProjectId>,
    ) -> Option<Vnid> {
        let intent = self.intent;
        let Some(owner) = owners.get(&locked) else {
            owners.insert(locked, project);
            return Some(locked);
        };
        let (name, owner) = (intent[project].name.as_str(), &intent[*owner]);
        if owner.fixed_vnid.is_none() {
            let keys = [("vnids", name), ("vnids", owner.name.as_str())];
            self.report.push(self.conflict(keys, locked));
        }
        None
    }

    /// Gives projects that came back their old number, and reports fixed numbers that still
    /// belong to another project's past.
    fn revive(
        &mut self,
        numbers: &mut [Option<Vnid>],
        retired: &mut BTreeMap<Vnid, String>,
        owners: &mut BTreeMap<Vnid, ProjectId>,
    ) {
        for ((id, project), number) in self.intent.projects().zip(numbers) {
            let old = retired.iter().find(|(old, name)| {
                name.as_str() == project.name.as_str() && !owners.contains_key(old)
            });
            if let (None, Some((&old, _))) = (*number, old) {
                *number = Some(old);
                owners.insert(old, id);
            }
            let Some((number, former)) = number.and_then(|n| retired.get_key_value(&n)) else {
                continue;
            };
            let number = *number;
            if former.as_str() == project.name.as_str() {
                retired.remove(&number);
                continue;
            }
            let place = project.fixed_vnid.map_or(project.place, |fixed| fixed.place);
            let message = format!("VNID {number} belonged to the project `{former}` before");
            self.report.push(Diagnostic::new(Code::LockRetired, message).at(place).help(
                "nodes that still run an older generation would mix the two; once all nodes run \
                 the present one, run `ringfence lock --prune`",
            ));
        }
    }
}
