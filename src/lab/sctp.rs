//! The first two packets of an SCTP association (RFC 9260), by raw sockets.
//!
//! A kernel need not have SCTP to carry it, to track it and to translate it. So the lab speaks as much
//! of it as a probe takes: an INIT, and an INIT ACK whose cookie says what TCP and UDP answer.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use crc::{CRC_32_ISCSI, Crc};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketType, bind, ipproto, recv, sendto, socket,
};

/// RFC 9260, appendix A.
const CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// The protocol's number, as IP has it.
const NUMBER: u8 = 132;
/// The common header of every packet.
const HEADER: usize = 12;
/// The fixed part of INIT and INIT ACK: type, flags, length, tag, window, streams, first number.
const INIT: usize = 20;
/// Type and length of a parameter.
const PARAMETER: usize = 4;
const STATE_COOKIE: u16 = 7;

/// Room for what comes: nothing that is answered here is longer.
const ROOM: usize = 2048;

/// A packet with one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Packet {
    source: u16,
    destination: u16,
    /// What the receiver asked to be called.
    tag: u32,
    chunk: Chunk,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Chunk {
    /// Opens an association; the answer shall have this tag.
    Init(u32),
    /// Agrees to that, with a cookie.
    InitAck(u32, Vec<u8>),
    /// Refuses.
    Abort,
}

impl Packet {
    fn encode(&self) -> Vec<u8> {
        let (kind, tag, cookie) = match &self.chunk {
            Chunk::Init(tag) => (1, Some(*tag), None),
            Chunk::InitAck(tag, cookie) => (2, Some(*tag), Some(cookie.as_slice())),
            Chunk::Abort => (6, None, None),
        };
        let mut body = Vec::new();
        if let Some(tag) = tag {
            body.extend(tag.to_be_bytes());
            // The window, one stream each way, and the first number, which may be the tag.
            body.extend([0, 0, 0x10, 0, 0, 1, 0, 1]);
            body.extend(tag.to_be_bytes());
        }
        if let Some(cookie) = cookie {
            body.extend(STATE_COOKIE.to_be_bytes());
            body.extend(length(PARAMETER + cookie.len()));
            body.extend(cookie);
        }
        let mut packet = Vec::new();
        packet.extend(self.source.to_be_bytes());
        packet.extend(self.destination.to_be_bytes());
        packet.extend(self.tag.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend([kind, 0]);
        packet.extend(length(PARAMETER + body.len()));
        packet.extend(body);
        packet.resize(packet.len().next_multiple_of(4), 0);
        let sum = checksum(&packet);
        packet[8..HEADER].copy_from_slice(&sum);
        packet
    }

    /// `None` to what is damaged, and to what begins with another chunk.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let chunk = bytes.get(HEADER..)?;
        if bytes[8..HEADER] != checksum(bytes) {
            return None;
        }
        let chunk = chunk.get(..u16_at(chunk, 2)?.into())?;
        let chunk = match *chunk.first()? {
            1 => Chunk::Init(init_tag(chunk)?),
            2 => Chunk::InitAck(init_tag(chunk)?, cookie(chunk.get(INIT..)?)?),
            6 => Chunk::Abort,
            _ => return None,
        };
        let (source, destination) = (u16_at(bytes, 0)?, u16_at(bytes, 2)?);
        Some(Self { source, destination, tag: u32_at(bytes, 4)?, chunk })
    }
}

/// A length as two bytes; all that is sent here is short.
fn length(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}

/// As it is sent, with the place of the checksum itself taken as zero.
fn checksum(packet: &[u8]) -> [u8; 4] {
    let mut digest = CHECKSUM.digest();
    digest.update(packet.get(..8).unwrap_or_default());
    digest.update(&[0; 4]);
    digest.update(packet.get(HEADER..).unwrap_or_default());
    digest.finalize().to_le_bytes()
}

/// The tag of an INIT or INIT ACK, which is never zero.
fn init_tag(chunk: &[u8]) -> Option<u32> {
    chunk.get(..INIT)?;
    u32_at(chunk, 4).filter(|tag| *tag != 0)
}

/// The cookie among some parameters.
fn cookie(mut parameters: &[u8]) -> Option<Vec<u8>> {
    loop {
        let (kind, length) = (u16_at(parameters, 0)?, usize::from(u16_at(parameters, 2)?));
        let value = parameters.get(PARAMETER..length)?;
        if kind == STATE_COOKIE {
            return Some(value.to_vec());
        }
        parameters = parameters.get(length.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// What IP carries.
#[derive(Debug, PartialEq, Eq)]
struct Datagram<'b> {
    from: Ipv4Addr,
    to: Ipv4Addr,
    protocol: u8,
    payload: &'b [u8],
}

impl<'b> Datagram<'b> {
    /// Of what an ICMP error repeats, the end may be missing.
    fn decode(bytes: &'b [u8]) -> Option<Self> {
        let address = |at| u32_at(bytes, at).map(Ipv4Addr::from);
        let first = *bytes.first()?;
        let header = usize::from(first & 0xf) * 4;
        let end = usize::from(u16_at(bytes, 2)?).min(bytes.len());
        let (from, to) = (address(12)?, address(16)?);
        (first >> 4 == 4 && header >= 20).then_some(())?;
        Some(Self { from, to, protocol: bytes[9], payload: bytes.get(header..end)? })
    }
}

/// Whether an ICMP message says that nobody takes an INIT from this port to there.
fn is_refusal(message: &[u8], from: u16, to: SocketAddrV4) -> bool {
    const UNREACHABLE: u8 = 3;
    const PROTOCOL: u8 = 2;
    const PORT: u8 = 3;
    const ICMP: usize = 8;
    let sent = || Datagram::decode(message.get(ICMP..)?);
    matches!(message, [UNREACHABLE, PROTOCOL | PORT, ..])
        && sent().is_some_and(|sent| {
            let ports = (u16_at(sent.payload, 0), u16_at(sent.payload, 2));
            sent.protocol == NUMBER && sent.to == *to.ip() && ports == (Some(from), Some(to.port()))
        })
}

fn raw(protocol: rustix::net::Protocol) -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::INET, SocketType::RAW, Some(protocol))?)
}

/// A raw socket has no port.
fn host(address: Ipv4Addr) -> SocketAddrV4 {
    SocketAddrV4::new(address, 0)
}

/// A number for one probe alone, which is not zero.
fn random() -> u32 {
    let bytes = RandomState::new().build_hasher().finish().to_be_bytes();
    u32_at(&bytes, 0).unwrap_or_default().max(1)
}

/// Answers every INIT to this address from now on.
pub(super) fn listen(at: SocketAddrV4) -> io::Result<()> {
    let socket = raw(ipproto::SCTP)?;
    bind(&socket, &host(*at.ip()))?;
    // The same for all, so that an INIT that is sent again gets the same answer.
    let own = random();
    thread::spawn(move || {
        let mut buffer = [0; ROOM];
        while let Ok((length, _)) = recv(&socket, &mut buffer[..], RecvFlags::empty()) {
            if let Some((from, to, answer)) = answer(&buffer[..length], at.port(), own) {
                let _ = reply(from, to, &answer);
            }
        }
    });
    Ok(())
}

/// The answer to an INIT for a port, with this tag, and from where to where it goes.
fn answer(bytes: &[u8], port: u16, own: u32) -> Option<(Ipv4Addr, Ipv4Addr, Vec<u8>)> {
    let Datagram { from, to, payload, .. } = Datagram::decode(bytes)?;
    // The socket brings whatever comes to the address.
    let packet = Packet::decode(payload).filter(|packet| packet.destination == port)?;
    // Who opens an association knows no tag yet.
    let Packet { source, destination, tag: 0, chunk: Chunk::Init(tag) } = packet else {
        return None;
    };
    let cookie = format!("{from} {to}:{port}").into_bytes();
    let chunk = Chunk::InitAck(own, cookie);
    let answer = Packet { source: destination, destination: source, tag, chunk };
    Some((to, from, answer.encode()))
}

/// Sends from the very address that was asked.
fn reply(from: Ipv4Addr, to: Ipv4Addr, answer: &[u8]) -> io::Result<()> {
    let socket = raw(ipproto::SCTP)?;
    bind(&socket, &host(from))?;
    sendto(&socket, answer, SendFlags::empty(), &host(to))?;
    Ok(())
}

/// Sends an INIT until it is answered, and returns the cookie's text.
pub(super) fn probe(to: SocketAddrV4, timeout: Duration) -> io::Result<String> {
    const AGAIN: Duration = Duration::from_millis(400);
    /// From here on, no service of a node is in the way.
    const DYNAMIC: u16 = 0x8000;
    // Not connected: the kernel would tell of every error from that address, whatever its port.
    let (socket, errors) = (raw(ipproto::SCTP)?, raw(ipproto::ICMP)?);
    let own = DYNAMIC | u16_at(&random().to_be_bytes(), 0).unwrap_or_default();
    let tag = random();
    let init = Packet { source: own, destination: to.port(), tag: 0, chunk: Chunk::Init(tag) };
    let init = init.encode();
    let mut buffer = [0; ROOM];
    let mut aborted = false;
    let begin = Instant::now();
    loop {
        sendto(&socket, &init, SendFlags::empty(), &host(*to.ip()))?;
        let sent = Instant::now();
        while let Some(left) = AGAIN.checked_sub(sent.elapsed()) {
            let [answered, failed] = wait([&socket, &errors], left)?;
            if answered {
                let (length, _) = recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT)?;
                match answered_by(&buffer[..length], own, to, tag) {
                    Some(Chunk::InitAck(_, cookie)) => {
                        return Ok(String::from_utf8_lossy(&cookie).into_owned());
                    }
                    Some(Chunk::Abort) => aborted = true,
                    _ => {}
                }
            }
            if failed {
                let (length, _) = recv(&errors, &mut buffer[..], RecvFlags::DONTWAIT)?;
                let message = Datagram::decode(&buffer[..length]);
                if message.is_some_and(|message| is_refusal(message.payload, own, to)) {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
            }
        }
        // A kernel with SCTP of its own aborts what it knows nothing of, before a listener here
        // gets to answer. So an ABORT is the answer where no other comes.
        if aborted {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        if begin.elapsed() >= timeout {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// What whoever was asked says to it; all else that comes is somebody else's.
fn answered_by(bytes: &[u8], own: u16, peer: SocketAddrV4, tag: u32) -> Option<Chunk> {
    let datagram = Datagram::decode(bytes).filter(|datagram| datagram.from == *peer.ip())?;
    let packet = Packet::decode(datagram.payload)?;
    let is_ours = (packet.source, packet.destination, packet.tag) == (peer.port(), own, tag);
    is_ours.then_some(packet.chunk)
}

/// Which of two sockets have something to read, before this time is over.
fn wait(sockets: [&OwnedFd; 2], time: Duration) -> io::Result<[bool; 2]> {
    let mut polled = sockets.map(|socket| PollFd::new(socket, PollFlags::IN));
    let time = Timespec::try_from(time).map_err(io::Error::other)?;
    poll(&mut polled, Some(&time))?;
    Ok(polled.map(|socket| socket.revents().contains(PollFlags::IN)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const THERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    fn init() -> Packet {
        Packet { source: 40_000, destination: 7000, tag: 0, chunk: Chunk::Init(0x1234_5678) }
    }

    fn datagram(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x45, 0];
        bytes.extend(length(20 + payload.len()));
        bytes.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
        bytes.extend(from.octets());
        bytes.extend(to.octets());
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn the_checksum_is_that_of_the_rfc() {
        // The check value of the polynomial, and 32 bytes of zeroes as they are sent (RFC 3720, B.4).
        assert_eq!(CHECKSUM.checksum(b"123456789"), 0xe306_9283);
        assert_eq!(checksum(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
        // Whatever stands in its place.
        let mut packet = [0; 32];
        packet[8..12].fill(0xff);
        assert_eq!(checksum(&packet), [0xaa, 0x36, 0x91, 0x8a]);
    }

    #[test]
    fn an_init_has_the_bytes_of_the_rfc() {
        let mut bytes = init().encode();
        bytes[8..12].fill(0);
        let expected = [
            // 40000 to 7000, no tag, no checksum here.
            0x9c, 0x40, 0x1b, 0x58, 0, 0, 0, 0, 0, 0, 0, 0, //
            // INIT of 20 bytes, its tag, 4096 bytes, a stream each way, the first number.
            1, 0, 0, 20, 0x12, 0x34, 0x56, 0x78, 0, 0, 0x10, 0, 0, 1, 0, 1, 0x12, 0x34, 0x56, 0x78,
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let cookies = [&b""[..], b"1", b"10.0.0.1 10.0.0.2:7000"];
        let chunks = cookies.map(|cookie| Chunk::InitAck(9, cookie.to_vec()));
        for chunk in chunks.into_iter().chain([Chunk::Init(u32::MAX), Chunk::Abort]) {
            let packet = Packet { chunk, tag: 7, ..init() };
            let bytes = packet.encode();
            assert_eq!(bytes.len() % 4, 0);
            assert_eq!(Packet::decode(&bytes), Some(packet));
        }
    }

    #[test]
    fn a_cookie_may_follow_other_parameters() {
        let mut parameters = vec![0x80, 8, 0, 5, 0xc0, 0, 0, 0];
        parameters.extend([0, 7, 0, 6, b'o', b'k', 0, 0]);
        assert_eq!(cookie(&parameters).unwrap(), b"ok");
        // One without a length leads nowhere.
        assert_eq!(cookie(&[0, 8, 0, 0, 0, 7, 0, 4]), None);
    }

    #[test]
    fn an_init_is_answered_by_the_port_that_it_is_for() {
        let asked = datagram(HERE, THERE, NUMBER, &init().encode());
        let (from, to, bytes) = answer(&asked, 7000, 5).unwrap();
        assert_eq!((from, to), (THERE, HERE));
        let got = datagram(from, to, NUMBER, &bytes);
        let peer = SocketAddrV4::new(THERE, 7000);
        let Some(Chunk::InitAck(_, cookie)) = answered_by(&got, 40_000, peer, 0x1234_5678) else {
            panic!("no answer");
        };
        assert_eq!(cookie, b"10.0.0.1 10.0.0.2:7000");
        assert_eq!(answer(&asked, 7001, 5), None);
        // Another's answer, and one by another's port or address.
        assert_eq!(answered_by(&got, 40_001, peer, 0x1234_5678), None);
        assert_eq!(answered_by(&got, 40_000, peer, 0x1234_5679), None);
        assert_eq!(answered_by(&got, 40_000, SocketAddrV4::new(THERE, 7001), 0x1234_5678), None);
        assert_eq!(answered_by(&got, 40_000, SocketAddrV4::new(HERE, 7000), 0x1234_5678), None);
        // An INIT with a tag, one whose tag is zero, and an answer are none.
        for packet in [
            Packet { tag: 1, ..init() },
            Packet { chunk: Chunk::Init(0), ..init() },
            Packet { chunk: Chunk::InitAck(1, Vec::new()), ..init() },
        ] {
            assert_eq!(answer(&datagram(HERE, THERE, NUMBER, &packet.encode()), 7000, 5), None);
        }
    }

    #[test]
    fn an_icmp_error_about_the_very_ports_refuses() {
        let sent = datagram(HERE, THERE, NUMBER, &init().encode()[..8]);
        let message = |kind, code| [&[kind, code, 0, 0, 0, 0, 0, 0], sent.as_slice()].concat();
        let to = SocketAddrV4::new(THERE, 7000);
        assert!(is_refusal(&message(3, 2), 40_000, to));
        assert!(is_refusal(&message(3, 3), 40_000, to));
        // A host that is not there, an echo, and errors about others' packets.
        assert!(!is_refusal(&message(3, 1), 40_000, to));
        assert!(!is_refusal(&message(8, 2), 40_000, to));
        assert!(!is_refusal(&message(3, 2), 40_001, to));
        assert!(!is_refusal(&message(3, 2), 40_000, SocketAddrV4::new(THERE, 7001)));
        assert!(!is_refusal(&message(3, 2), 40_000, SocketAddrV4::new(HERE, 7000)));
    }

    #[test]
    fn nothing_that_comes_is_trusted() {
        let ack = Packet { chunk: Chunk::InitAck(9, b"cookie".to_vec()), ..init() };
        for packet in [init(), ack] {
            let whole = packet.encode();
            for end in 0..whole.len() {
                assert_eq!(Packet::decode(&whole[..end]), None);
                // Even where the checksum is that of what is left.
                let mut part = whole[..end].to_vec();
                if end >= HEADER {
                    let sum = checksum(&part);
                    part[8..HEADER].copy_from_slice(&sum);
                }
                let _ = Packet::decode(&part);
            }
            // Every byte of it wrong in every way, with a checksum that says that it isn't.
            for at in 0..whole.len() {
                for value in 0..=u8::MAX {
                    let mut bytes = whole.clone();
                    bytes[at] = value;
                    let damaged = bytes != whole;
                    assert_eq!(Packet::decode(&bytes).is_none(), damaged);
                    let sum = checksum(&bytes);
                    bytes[8..HEADER].copy_from_slice(&sum);
                    let _ = answer(&datagram(HERE, THERE, NUMBER, &bytes), 7000, 5);
                    let _ = Packet::decode(&bytes);
                }
            }
            let carried = datagram(HERE, THERE, NUMBER, &whole);
            let to = SocketAddrV4::new(THERE, 7000);
            for end in 0..carried.len() {
                assert_eq!(answer(&carried[..end], 7000, 5), None);
                assert!(!is_refusal(&carried[..end], 40_000, to));
                for value in 0..=u8::MAX {
                    let mut bytes = carried.clone();
                    bytes[end] = value;
                    let _ = Datagram::decode(&bytes);
                    let _ = is_refusal(&bytes, 40_000, to);
                }
            }
        }
    }
}
