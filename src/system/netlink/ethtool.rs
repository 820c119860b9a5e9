//! Which interfaces hand on frames without their checksums, as ethtool tells it over generic
//! netlink: one question for all of a namespace.

use std::collections::BTreeMap;
use std::io;

use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};

/// Of generic netlink: the numbers of families.
const CONTROLLER: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// Of the family `ethtool`.
const GET_FEATURES: u8 = 11;
const FEATURES_HEADER: u16 = 1;
const FEATURES_ACTIVE: u16 = 4;
const HEADER_NAME: u16 = 2;
const HEADER_FLAGS: u16 = 3;
const COMPACT: u32 = 1;
const BITSET_VALUE: u16 = 4;
/// `NETIF_F_HW_CSUM`, which ethtool calls `tx-checksum-ip-generic`.
const CHECKSUMS: u32 = 1 << 3;

const NESTED: u16 = 1 << 15;
const KIND: u16 = !(3 << 14);
const REQUEST: u16 = 1;
const DUMP: u16 = 0x301;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// The headers of a message, and of a message of generic netlink.
const HEADERS: usize = 20;

/// Whether each link of this thread's namespace leaves checksums to whoever gets its frames; empty
/// where the kernel can't be asked so.
pub(super) fn checksums() -> io::Result<BTreeMap<String, bool>> {
    let mut found = BTreeMap::new();
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut family = None;
    let name = attribute(FAMILY_NAME, b"ethtool\0");
    ask(&socket, CONTROLLER, REQUEST, GET_FAMILY, &name, |body| {
        family = find(body, FAMILY_ID).and_then(|id| Some(u16::from_ne_bytes(id.try_into().ok()?)));
    })?;
    let Some(family) = family else { return Ok(found) };
    let flags = attribute(HEADER_FLAGS, &COMPACT.to_ne_bytes());
    let header = attribute(FEATURES_HEADER | NESTED, &flags);
    ask(&socket, family, DUMP, GET_FEATURES, &header, |body| {
        let name = find(body, FEATURES_HEADER).and_then(|header| find(header, HEADER_NAME));
        let active = find(body, FEATURES_ACTIVE).and_then(|bits| find(bits, BITSET_VALUE));
        if let (Some(name), Some(active)) = (name, active)
            && let Some(word) = active.get(..4).and_then(|word| word.try_into().ok())
        {
            let name = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
            found.insert(name, u32::from_ne_bytes(word) & CHECKSUMS != 0);
        }
    })?;
    Ok(found)
}

/// One attribute with its padding.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or_default();
    let mut bytes = Vec::from(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The value of the first attribute of a kind.
fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    while let [a, b, c, d, rest @ ..] = attributes {
        let length = usize::from(u16::from_ne_bytes([*a, *b]));
        let value = rest.get(..length.checked_sub(4)?)?;
        if u16::from_ne_bytes([*c, *d]) & KIND == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// Sends a question and hands the attributes of each answer to `take`. A kernel without an answer
/// gives none.
fn ask(
    socket: &Socket,
    family: u16,
    flags: u16,
    command: u8,
    attributes: &[u8],
    mut take: impl FnMut(&[u8]),
) -> io::Result<()> {
    let length = u32::try_from(HEADERS + attributes.len()).unwrap_or_default();
    let mut bytes = Vec::from(length.to_ne_bytes());
    bytes.extend(family.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // A number of the question, no port, and the version of the family.
    bytes.extend([1, 0, 0, 0, 0, 0, 0, 0, command, 1, 0, 0]);
    bytes.extend(attributes);
    socket.send(&bytes, 0)?;
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while let Some((head, _)) = rest.split_at_checked(HEADERS - 4) {
            let word = |at: usize| head.get(at..at + 4).and_then(|word| word.try_into().ok());
            let length = word(0).map_or(0, u32::from_ne_bytes) as usize;
            let kind = u16::from_ne_bytes([head[4], head[5]]);
            if kind == ERROR || kind == DONE {
                return Ok(());
            }
            take(rest.get(HEADERS..length).unwrap_or_default());
            if flags == REQUEST {
                return Ok(());
            }
            rest = rest.get(length.next_multiple_of(4).max(1)..).unwrap_or_default();
        }
    }
}
