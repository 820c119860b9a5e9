//! `groups.ofctl`.

use std::collections::BTreeMap;

use super::Unread;
use super::cursor::Cursor;

/// One choice of a group: commits the connection with this destination and goes on in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bucket {
    /// Its number.
    pub id: u64,
    /// The table behind it.
    pub table: u8,
    /// The zone of the connection.
    pub zone: u64,
    /// The destination.
    pub to: u64,
    /// The port of the destination; without it the port stays.
    pub port: Option<u64>,
}

/// A select group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its line in the file.
    pub line: u32,
    /// Whether a source address always has the same bucket.
    pub by_source: bool,
    /// The buckets.
    pub buckets: Vec<Bucket>,
}

/// The groups of a bridge, by number.
pub type Groups = BTreeMap<u64, Group>;

/// Reads a file.
pub fn read(file: &str, text: &[u8]) -> Result<Groups, Unread> {
    let mut groups = Groups::new();
    for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        if line.is_empty() || line[0] == b'#' {
            continue;
        }
        let refuse = |why: String| Unread::new(file, number, why);
        let (id, group) = group(line, u32::try_from(number).unwrap_or(0)).map_err(refuse)?;
        if groups.insert(id, group).is_some() {
            return Err(Unread::new(file, number, format!("a second group {id}")));
        }
    }
    Ok(groups)
}

fn group(line: &[u8], number: u32) -> Result<(u64, Group), String> {
    let mut at = Cursor(line);
    at.need("add_or_mod group_id=")?;
    let id = at.decimal(0xffff_ffff)?;
    at.need(",type=select")?;
    let by_source = at.eat(",selection_method=hash,fields=ip_src");
    let mut buckets = Vec::new();
    while at.eat(",bucket=bucket_id:") {
        let id = at.decimal(0xffff_ffff)?;
        at.need(",actions=ct(commit,table=")?;
        let table = u8::try_from(at.decimal(254)?).map_err(|_| "no table".to_owned())?;
        at.need(",zone=")?;
        let zone = at.decimal(0xffff)?;
        at.need(",nat(dst=")?;
        let to = at.address()?;
        let port = if at.eat(":") { Some(at.decimal(0xffff)?) } else { None };
        at.need("))")?;
        buckets.push(Bucket { id, table, zone, to, port });
    }
    if !at.is_done() {
        at.need(" # ")?;
    }
    if buckets.is_empty() {
        return Err("a group without buckets".to_owned());
    }
    Ok((id, Group { line: number, by_source, buckets }))
}
