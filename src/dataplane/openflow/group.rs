//! Select groups: one of several pods for each new connection.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::matches::write_address;
use super::write_number;
use crate::dataplane::origin::{Cookie, ObjectRef};
use crate::pipeline::{SERVICE_ZONE, Table};

/// A choice between pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group<'m> {
    /// Its number on every bridge that has it.
    pub id: u32,
    /// Whether packets from one address always choose the same, instead of those of a connection.
    pub by_source: bool,
    /// What there is to choose from, by number.
    pub buckets: Vec<Bucket>,
    /// The object that it stands for.
    pub subject: &'m ObjectRef,
}

/// One pod to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bucket {
    /// Its number in the group, by which Open vSwitch keeps choices when others come and go.
    pub id: u32,
    /// The pod's address.
    pub to: Ipv4Addr,
    /// The pod's port; `None` where ports are not translated.
    pub port: Option<u16>,
}

/// A group that several bridges have alike, printed once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrintedGroup<'m> {
    /// The group.
    pub group: Group<'m>,
    /// Its line.
    pub line: Vec<u8>,
}

impl<'m> From<Group<'m>> for PrintedGroup<'m> {
    fn from(group: Group<'m>) -> Self {
        let mut line = Vec::new();
        group.write_line(&mut line);
        Self { group, line }
    }
}

impl Group<'_> {
    /// The largest number that a group or bucket may have, less one (`OFPG_MAX`).
    pub const LAST: u32 = 0xffff_fefe;

    /// Appends the group as `ovs-ofctl add-groups` takes it, with its object as a comment and a
    /// line end. Behind the first word it is what Open vSwitch prints.
    pub fn write_line(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"add_or_mod group_id=");
        write_number(out, self.id.into());
        out.extend_from_slice(b",type=select");
        if self.by_source {
            out.extend_from_slice(b",selection_method=hash,fields=ip_src");
        }
        for Bucket { id, to, port } in &self.buckets {
            out.extend_from_slice(b",bucket=bucket_id:");
            write_number(out, (*id).into());
            out.extend_from_slice(b",actions=ct(commit,table=");
            write_number(out, Table::ServicePod.number().into());
            out.extend_from_slice(b",zone=");
            write_number(out, SERVICE_ZONE.into());
            out.extend_from_slice(b",nat(dst=");
            write_address(out, *to);
            if let Some(port) = port {
                out.push(b':');
                write_number(out, (*port).into());
            }
            out.extend_from_slice(b"))");
        }
        out.extend_from_slice(b" # ");
        out.extend_from_slice(self.subject.name.as_bytes());
        out.push(b'\n');
    }
}

/// The number that the group of the object with this cookie has, unless another has it.
#[must_use]
pub fn group_number(cookie: Cookie) -> u32 {
    free_number(cookie.get(), &BTreeSet::new())
}

/// The number of a group or bucket that follows from a hash, or the next that is free.
pub(crate) fn free_number(hash: u64, taken: &BTreeSet<u32>) -> u32 {
    let size = u64::from(Group::LAST);
    let start = (hash & 0xffff_ffff) % size;
    let numbers = (start..size).chain(0..start).map(|n| u32::try_from(n + 1).unwrap_or(1));
    numbers.into_iter().find(|number| !taken.contains(number)).unwrap_or(1)
}
