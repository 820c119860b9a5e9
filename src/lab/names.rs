//! A name server for the lab: every name has an address, which follows from the name.

use std::net::Ipv4Addr;

use crate::dataplane::origin::hash;

/// The name server of nodes and of routers that name none (TEST-NET-1, RFC 5737). `host.sh` has it
/// too.
pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);
/// Its port.
pub(super) const PORT: u16 = 53;

/// The address of a name in the lab: one of 198.18.0.0/15, which nobody has (RFC 2544).
pub(super) fn address(name: &str) -> Ipv4Addr {
    const FIRST: u32 = 0xc612_0001;
    const SIZE: u64 = 0x1_fffe;
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let offset = u32::try_from(hash(&format!("name/{name}")) % SIZE).unwrap_or_default();
    Ipv4Addr::from(FIRST + offset)
}

/// The answer to a query (RFC 1035, section 4); `None` to what isn't one.
pub(super) fn answer(query: &[u8]) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    const A: u16 = 1;
    if query.len() < HEADER || query.get(2)? & 0x80 != 0 || query.get(4..6)? != [0, 1] {
        return None;
    }
    let mut name = Vec::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        name.push(String::from_utf8(query.get(at..at + length)?.to_vec()).ok()?);
        at += length;
    }
    let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
    let question = query.get(HEADER..at + 4)?;
    let has_answer = kind == A;
    let mut answer = query.get(..2)?.to_vec();
    // An authoritative answer without an error; one question, and one answer or none.
    answer.extend([0x85, 0x80, 0, 1, 0, u8::from(has_answer), 0, 0, 0, 0]);
    answer.extend(question);
    if has_answer {
        // The name of the question, type A, class IN, for a minute, four bytes.
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address(&name.join(".")).octets());
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_for_an_address_is_answered() {
        let mut query = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        query.extend(b"\x02DB\x07example\x03com\0\0\x01\0\x01");
        let answer = answer(&query).unwrap();
        assert_eq!(answer[..8], [0xab, 0xcd, 0x85, 0x80, 0, 1, 0, 1]);
        assert_eq!(answer[answer.len() - 4..], address("db.example.com").octets());
    }

    #[test]
    fn nonsense_is_not() {
        for query in [&b""[..], b"\0\0\0\0\0\x01\0\0\0\0\0\0\x3fa", &[0xff; 40]] {
            assert_eq!(answer(query), None);
        }
    }
}
