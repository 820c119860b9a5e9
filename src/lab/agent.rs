//! A process in every namespace of the lab that answers probes and sends them.
//!
//! It reads requests as lines of JSON and answers each with a line. It ends with its input.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::host::Host;
use super::{failed, sctp};
use crate::diagnostic::Diagnostic;

/// What an agent is asked to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Answer at this address from now on.
    Listen(Transport, SocketAddrV4),
    /// Send a probe and tell what came back.
    Probe {
        id: usize,
        transport: Transport,
        to: SocketAddrV4,
        milliseconds: u64,
        /// Another source address than the namespace's own; only for UDP.
        #[serde(default)]
        source: Option<Ipv4Addr>,
    },
    /// Ask a proxy for `http://host/` and tell what came back.
    Fetch { id: usize, proxy: SocketAddrV4, host: String, milliseconds: u64 },
    /// Answer questions for names at this address from now on.
    Names(SocketAddrV4),
    /// Note who sends to this group from now on, as the interface with this address hears it.
    Join(SocketAddrV4, Ipv4Addr),
    /// Send some datagrams to a group without joining it.
    Cast { id: usize, group: SocketAddrV4 },
    /// Tell what the groups brought so far.
    Heard,
    /// Count the bytes that come to this port from now on, and when.
    Count(u16),
    /// Send datagrams with this many bits a second for some time.
    Flood { id: usize, to: SocketAddrV4, bits: u64, milliseconds: u64 },
    /// Tell how many bits a second came to this port in this time.
    Counted(u16, u64),
}

/// Groups with the sources that were heard in them.
pub(super) type Heard = BTreeSet<(SocketAddrV4, Ipv4Addr)>;

/// The bytes that came to ports, with the times of the first and the last.
type Counts = BTreeMap<u16, (u64, Instant, Instant)>;

/// What a datagram of a flood holds, in bytes, and what carries it: Ethernet, IP and UDP.
const FLOOD: (usize, usize) = (1200, 42);

/// How many datagrams a cast has, for those that the machine may lose.
pub(super) const CASTS: u32 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Transport {
    Tcp,
    Udp,
    Sctp,
    /// TCP, where requests of HTTP are answered as such.
    Http,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reply {
    /// It answers now.
    Listening,
    /// It can't.
    CannotListen(String),
    /// The probe was answered: who it seemed to come from, and where it arrived.
    Answered { id: usize, from: String, at: String },
    /// The probe was refused by whoever got it.
    Refused { id: usize },
    /// The cast is done.
    Cast { id: usize },
    /// What the groups brought.
    Heard(Heard),
    /// The flood is over.
    Flooded { id: usize },
    /// How many bits a second came.
    Counted(u64),
    /// Nothing came back.
    Silent { id: usize, reason: String },
}

/// The agent itself: `ringfence lab-agent`.
pub fn run() {
    let output = Mutex::new(io::stdout());
    let heard = Arc::new(Mutex::new(Heard::new()));
    let counts = Arc::new(Mutex::new(Counts::new()));
    let reply = |reply: &Reply| {
        if let (Ok(mut output), Ok(line)) = (output.lock(), serde_json::to_string(reply)) {
            let _ = writeln!(output, "{line}");
            let _ = output.flush();
        }
    };
    thread::scope(|scope| {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            match serde_json::from_str(&line) {
                Ok(Request::Listen(transport, at)) => reply(&match listen(transport, at) {
                    Ok(()) => Reply::Listening,
                    Err(error) => Reply::CannotListen(format!("{at}: {error}")),
                }),
                Ok(Request::Names(at)) => reply(&match names(at) {
                    Ok(()) => Reply::Listening,
                    Err(error) => Reply::CannotListen(format!("{at}: {error}")),
                }),
                Ok(Request::Fetch { id, proxy, host, milliseconds }) => {
                    let reply = &reply;
                    scope.spawn(move || {
                        reply(&fetch(id, proxy, &host, Duration::from_millis(milliseconds)));
                    });
                }
                Ok(Request::Join(group, interface)) => {
                    reply(&match join(group, interface, Arc::clone(&heard)) {
                        Ok(()) => Reply::Listening,
                        Err(error) => Reply::CannotListen(format!("{group}: {error}")),
                    });
                }
                Ok(Request::Cast { id, group }) => {
                    let reply = &reply;
                    scope.spawn(move || {
                        reply(&match cast(group) {
                            Ok(()) => Reply::Cast { id },
                            Err(error) => Reply::Silent { id, reason: error.kind().to_string() },
                        });
                    });
                }
                Ok(Request::Count(port)) => reply(&match count(port, Arc::clone(&counts)) {
                    Ok(()) => Reply::Listening,
                    Err(error) => Reply::CannotListen(format!("{port}: {error}")),
                }),
                Ok(Request::Counted(port, milliseconds)) => {
                    let count = counts.lock().ok().and_then(|mut counts| counts.remove(&port));
                    let bits = count.map_or(0, |(bytes, first, last)| {
                        // What waits in a queue may come for longer than it was sent.
                        let took = u64::try_from((last - first).as_millis()).unwrap_or(u64::MAX);
                        bytes * 8 * 1000 / milliseconds.max(took).max(1)
                    });
                    reply(&Reply::Counted(bits));
                }
                Ok(Request::Flood { id, to, bits, milliseconds }) => {
                    reply(&match flood(to, bits, Duration::from_millis(milliseconds)) {
                        Ok(()) => Reply::Flooded { id },
                        Err(error) => Reply::Silent { id, reason: error.kind().to_string() },
                    });
                }
                Ok(Request::Heard) => {
                    let heard = heard.lock().map(|heard| heard.clone()).unwrap_or_default();
                    reply(&Reply::Heard(heard));
                }
                Ok(Request::Probe { id, transport, to, milliseconds, source }) => {
                    let reply = &reply;
                    scope.spawn(move || {
                        let timeout = Duration::from_millis(milliseconds);
                        reply(&probe(id, transport, to, timeout, source));
                    });
                }
                Err(error) => reply(&Reply::CannotListen(error.to_string())),
            }
        }
    });
    // The threads that answer have no end of their own.
    std::process::exit(0);
}

fn listen(transport: Transport, at: SocketAddrV4) -> io::Result<()> {
    match transport {
        Transport::Tcp => {
            let listener = TcpListener::bind(at)?;
            thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    if let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) {
                        let _ = writeln!(stream, "{} {local}", peer.ip());
                    }
                }
            });
        }
        Transport::Http => {
            let listener = TcpListener::bind(at)?;
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    thread::spawn(move || serve(stream));
                }
            });
        }
        Transport::Sctp => sctp::listen(at)?,
        Transport::Udp => {
            let socket = UdpSocket::bind(at)?;
            thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(format!("{} {at}\n", peer.ip()).as_bytes(), peer);
                }
            });
        }
    }
    Ok(())
}

/// Answers a request, or a client that sends none.
fn serve(mut stream: TcpStream) {
    const REQUEST: Duration = Duration::from_secs(1);
    let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else { return };
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    let _ = stream.set_read_timeout(Some(REQUEST));
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(length) if length > 0 => request.extend(&buffer[..length]),
            _ => break,
        }
    }
    let body = format!("{} {local}\n", peer.ip());
    let head = if request.is_empty() {
        String::new()
    } else {
        format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())
    };
    let _ = stream.write_all(format!("{head}{body}").as_bytes());
}

fn names(at: SocketAddrV4) -> io::Result<()> {
    let socket = UdpSocket::bind(at)?;
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            if let Some(answer) = super::names::answer(&buffer[..length]) {
                let _ = socket.send_to(&answer, peer);
            }
        }
    });
    Ok(())
}

/// Asks a proxy for a page. It refuses with the status 403.
fn fetch(id: usize, proxy: SocketAddrV4, host: &str, timeout: Duration) -> Reply {
    let ask = || -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::V4(proxy), timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        let request = format!("GET http://{host}/ HTTP/1.0\r\nHost: {host}\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = match ask() {
        Ok(answer) => answer,
        Err(error) => return Reply::Silent { id, reason: error.kind().to_string() },
    };
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    match (status.split(' ').nth(1), body.trim().split_once(' ')) {
        (Some("200"), Some((from, at))) => {
            Reply::Answered { id, from: from.to_owned(), at: at.to_owned() }
        }
        (Some("403"), _) => Reply::Refused { id },
        _ => Reply::Silent { id, reason: status.to_owned() },
    }
}

fn join(group: SocketAddrV4, interface: Ipv4Addr, heard: Arc<Mutex<Heard>>) -> io::Result<()> {
    // Bound to the group, it gets nothing else.
    let socket = UdpSocket::bind(group)?;
    socket.join_multicast_v4(group.ip(), &interface)?;
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            if let (IpAddr::V4(peer), Ok(mut heard)) = (peer.ip(), heard.lock()) {
                heard.insert((group, peer));
            }
        }
    });
    Ok(())
}

fn cast(group: SocketAddrV4) -> io::Result<()> {
    const PAUSE: Duration = Duration::from_millis(300);
    let socket = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?;
    for _ in 0..CASTS {
        socket.send_to(b"cast", group)?;
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn count(port: u16, counts: Arc<Mutex<Counts>>) -> io::Result<()> {
    let socket = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))?;
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, _)) = socket.recv_from(&mut buffer) {
            if let Ok(mut counts) = counts.lock() {
                let now = Instant::now();
                let (bytes, _, last) = counts.entry(port).or_insert((0, now, now));
                // As the network counts them.
                *bytes += (length + FLOOD.1) as u64;
                *last = now;
            }
        }
    });
    Ok(())
}

fn flood(to: SocketAddrV4, bits: u64, time: Duration) -> io::Result<()> {
    const PAUSE: Duration = Duration::from_millis(2);
    let socket = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?;
    let each = (FLOOD.0 + FLOOD.1) as u64 * 8;
    let begin = Instant::now();
    let mut sent = 0;
    while begin.elapsed() < time {
        let elapsed = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        let due = bits.saturating_mul(elapsed) / 1000 / each;
        while sent < due {
            // What the interface has no room for is lost like what the network drops.
            let _ = socket.send_to(&[0; FLOOD.0], to);
            sent += 1;
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn probe(
    id: usize,
    transport: Transport,
    to: SocketAddrV4,
    timeout: Duration,
    source: Option<Ipv4Addr>,
) -> Reply {
    let answer = match transport {
        Transport::Tcp | Transport::Http => probe_tcp(to, timeout),
        Transport::Udp => probe_udp(to, timeout, source),
        Transport::Sctp => sctp::probe(to, timeout),
    };
    match answer {
        Ok(answer) => match answer.trim().split_once(' ') {
            Some((from, at)) => Reply::Answered { id, from: from.to_owned(), at: at.to_owned() },
            None => Reply::Silent { id, reason: "an empty answer".to_owned() },
        },
        // A ruleset that refuses what its own node sends lets the sending fail.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::PermissionDenied
            ) =>
        {
            Reply::Refused { id }
        }
        Err(error) => Reply::Silent { id, reason: error.kind().to_string() },
    }
}

fn probe_tcp(to: SocketAddrV4, timeout: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::V4(to), timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn probe_udp(to: SocketAddrV4, timeout: Duration, source: Option<Ipv4Addr>) -> io::Result<String> {
    const AGAIN: Duration = Duration::from_millis(400);
    let source = source.unwrap_or(Ipv4Addr::UNSPECIFIED);
    let socket = UdpSocket::bind(SocketAddrV4::new(source, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(AGAIN))?;
    let begin = Instant::now();
    let mut buffer = [0; 64];
    loop {
        socket.send(b"probe")?;
        match socket.recv(&mut buffer) {
            Ok(length) => return Ok(String::from_utf8_lossy(&buffer[..length]).into_owned()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if begin.elapsed() >= timeout {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// An agent that runs somewhere in the lab.
#[derive(Debug)]
pub(super) struct Agent {
    requests: Option<std::io::PipeWriter>,
    replies: BufReader<std::io::PipeReader>,
    handle: duct::Handle,
}

impl Agent {
    /// Starts an agent on a machine, or in a named namespace of it.
    pub(super) fn start(
        host: &Host,
        netns: Option<&str>,
        program: &str,
    ) -> Result<Self, Diagnostic> {
        let broken = |error: io::Error| failed(&format!("an agent: {error}"));
        let (input, requests) = io::pipe().map_err(broken)?;
        let (replies, output) = io::pipe().map_err(broken)?;
        let handle = host
            .command(netns, &[program, "lab-agent"])
            .stdin_file(OwnedFd::from(input))
            .stdout_file(OwnedFd::from(output))
            .unchecked()
            .start()
            .map_err(broken)?;
        Ok(Self { requests: Some(requests), replies: BufReader::new(replies), handle })
    }

    pub(super) fn send(&mut self, request: &Request) -> Result<(), Diagnostic> {
        let broken = |error: io::Error| failed(&format!("an agent: {error}"));
        let line = serde_json::to_string(request).map_err(|error| failed(&error.to_string()))?;
        let requests = self.requests.as_mut().ok_or_else(|| failed("an agent has ended"))?;
        writeln!(requests, "{line}").map_err(broken)
    }

    pub(super) fn receive(&mut self) -> Result<Reply, Diagnostic> {
        let mut line = String::new();
        self.replies.read_line(&mut line).map_err(|error| failed(&format!("an agent: {error}")))?;
        serde_json::from_str(&line).map_err(|_| failed("an agent ended early"))
    }

    /// Makes the agent answer at an address.
    pub(super) fn listen(
        &mut self,
        transport: Transport,
        at: SocketAddrV4,
    ) -> Result<(), Diagnostic> {
        self.send(&Request::Listen(transport, at))?;
        self.listening()
    }

    /// Makes the agent a name server.
    pub(super) fn names(&mut self, at: SocketAddrV4) -> Result<(), Diagnostic> {
        self.send(&Request::Names(at))?;
        self.listening()
    }

    /// Makes the agent note who sends to a group.
    pub(super) fn join(
        &mut self,
        group: SocketAddrV4,
        interface: Ipv4Addr,
    ) -> Result<(), Diagnostic> {
        self.send(&Request::Join(group, interface))?;
        self.listening()
    }

    /// Makes the agent count what comes to a port.
    pub(super) fn count(&mut self, port: u16) -> Result<(), Diagnostic> {
        self.send(&Request::Count(port))?;
        self.listening()
    }

    /// How many bits a second came to a port in this time.
    pub(super) fn counted(&mut self, port: u16, time: Duration) -> Result<u64, Diagnostic> {
        let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.send(&Request::Counted(port, milliseconds))?;
        match self.receive()? {
            Reply::Counted(bits) => Ok(bits),
            other => Err(failed(&format!("an agent answers out of turn: {other:?}"))),
        }
    }

    /// What the groups brought so far.
    pub(super) fn heard(&mut self) -> Result<Heard, Diagnostic> {
        self.send(&Request::Heard)?;
        match self.receive()? {
            Reply::Heard(heard) => Ok(heard),
            other => Err(failed(&format!("an agent answers out of turn: {other:?}"))),
        }
    }

    fn listening(&mut self) -> Result<(), Diagnostic> {
        match self.receive()? {
            Reply::Listening => Ok(()),
            Reply::CannotListen(reason) => Err(failed(&format!("an agent can't listen: {reason}"))),
            other => Err(failed(&format!("an agent answers out of turn: {other:?}"))),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.requests = None;
        let _ = self.handle.wait();
    }
}
