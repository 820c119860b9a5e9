//! Names in egress policies: a real name server on the loopback, with all that such servers do.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tempfile::TempDir;

use crate::support::{PROGRAM, Run, root};

/// What the server says of a name.
#[derive(Clone, Debug)]
enum Says {
    Addresses(Vec<Ipv4Addr>, u32),
    /// Another name, whose records it adds if told to.
    Alias(&'static str, u32, bool),
    Code(ResponseCode),
    OnlyIpv6,
    Nothing,
}

type Zone = Arc<Mutex<BTreeMap<String, Says>>>;

/// A name server that answers over UDP as long as 512 bytes have room for it (RFC 1035, 4.2.1).
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    zone: Zone,
}

const MOST_BY_UDP: usize = 512;

impl Server {
    pub(crate) fn start() -> Self {
        let zone = Zone::default();
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
                break (tcp, udp);
            }
        };
        let address = tcp.local_addr().unwrap();
        let known = Arc::clone(&zone);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                let Some(mut answer) = answer(&buffer[..length], &known) else { continue };
                let mut bytes = answer.to_vec().unwrap();
                if bytes.len() > MOST_BY_UDP {
                    // Some of the records, as real servers do: they are not the answer.
                    answer.answers.truncate(3);
                    answer.metadata.truncation = true;
                    bytes = answer.to_vec().unwrap();
                }
                udp.send_to(&bytes, from).unwrap();
            }
        });
        let known = Arc::clone(&zone);
        thread::spawn(move || {
            for stream in tcp.incoming() {
                let (mut stream, known) = (stream.unwrap(), Arc::clone(&known));
                thread::spawn(move || {
                    let mut length = [0; 2];
                    while stream.read_exact(&mut length).is_ok() {
                        let mut bytes = vec![0; u16::from_be_bytes(length).into()];
                        stream.read_exact(&mut bytes).unwrap();
                        let Some(answer) = answer(&bytes, &known) else { return };
                        let bytes = answer.to_vec().unwrap();
                        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
                        stream.write_all(&[&length[..], &bytes].concat()).unwrap();
                    }
                });
            }
        });
        Self { address, zone }
    }

    fn says(&self, name: &str, says: Says) {
        self.zone.lock().unwrap().insert(name.to_owned(), says);
    }

    pub(crate) fn has(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.says(name, Says::Addresses(addresses, 300));
    }
}

fn answer(bytes: &[u8], zone: &Zone) -> Option<Message> {
    let asked = Message::from_vec(bytes).unwrap();
    let query = asked.queries[0].clone();
    let mut answer = Message::new(asked.metadata.id, MessageType::Response, asked.metadata.op_code);
    answer.metadata.recursion_desired = true;
    answer.metadata.recursion_available = true;
    assert_eq!(query.query_type(), RecordType::A, "only IPv4 is asked for");
    let mut name = query.name().clone();
    answer.add_query(query);
    let zone = zone.lock().unwrap();
    loop {
        let key = name.to_string();
        match zone.get(key.trim_end_matches('.')) {
            Some(Says::Addresses(addresses, ttl)) => {
                for address in addresses {
                    let data = RData::A(A(*address));
                    answer.add_answer(Record::from_rdata(name.clone(), *ttl, data));
                }
            }
            Some(Says::Alias(to, ttl, more)) => {
                let to = Name::from_ascii(format!("{to}.")).unwrap();
                let data = RData::CNAME(CNAME(to.clone()));
                answer.add_answer(Record::from_rdata(name, *ttl, data));
                name = to;
                if *more {
                    continue;
                }
            }
            Some(Says::OnlyIpv6) => {
                let data = RData::AAAA(AAAA("2001:db8::7".parse().unwrap()));
                answer.add_answer(Record::from_rdata(name, 300, data));
            }
            Some(Says::Code(code)) => answer.metadata.response_code = *code,
            Some(Says::Nothing) => return None,
            None => answer.metadata.response_code = ResponseCode::NXDomain,
        }
        return Some(answer);
    }
}

/// A desired state whose rules are for some names, in a directory of its own.
struct State {
    directory: TempDir,
    server: Server,
}

const NOW: &str = "2026-11-21T12:00:00Z";

impl State {
    fn new(names: &[&str]) -> Self {
        let state = Self { directory: tempfile::tempdir().unwrap(), server: Server::start() };
        state.rules(names);
        state
    }

    fn rules(&self, names: &[&str]) {
        let mut text = format!(
            "version: 1\ncluster: {{dns: {{servers: ['{}'], maxAge: 1d, keep: 6h}}}}\n\
             nodes: [{{name: node-1, address: 192.168.12.11}}]\n\
             projects: [{{name: shop, pods: [{{name: web-0, node: node-1}}]}}]\n\
             egressPolicies:\n  - project: shop\n    rules:\n",
            self.server.address
        );
        for name in names {
            let _ = writeln!(text, "      - deny: {{dnsName: {name}}}");
        }
        text.push_str("      - allow: {cidr: 0.0.0.0/0}\n");
        fs::write(self.directory.path().join("network.yaml"), text).unwrap();
    }

    fn run(&self, words: &[&str]) -> Run {
        crate::support::ringfence(self.directory.path(), words)
    }

    fn resolve(&self, now: &str, words: &[&str]) -> Run {
        self.run(&[&["resolve", ".", "--now", now], words].concat())
    }

    /// Resolves without complaint, and returns what changed.
    fn update(&self, now: &str) -> String {
        let run = self.resolve(now, &[]);
        assert_eq!(run.status, 0, "{}", run.stderr);
        run.stdout
    }

    fn compile(&self, now: &str) -> Run {
        self.run(&["compile", ".", "--now", now])
    }

    fn lock(&self) -> String {
        fs::read_to_string(self.directory.path().join("ringfence.lock")).unwrap_or_default()
    }

    /// The entries of names in the lock file.
    fn names(&self) -> Vec<String> {
        let lock = self.lock();
        let section = lock.split_once("\nresolvedNames:\n").map_or("", |(_, section)| section);
        section.lines().map(|line| line.trim().to_owned()).collect()
    }

    /// The destinations that the flows of the policy drop.
    fn denied(&self) -> Vec<String> {
        let flows = self.directory.path().join("out/node-1/flows.ofctl");
        let flows = fs::read_to_string(flows).unwrap();
        let flows =
            flows.lines().filter(|line| line.contains("table=100") && line.contains("drop"));
        let destination = |line: &str| {
            let (_, rest) = line.split_once("nw_dst=").unwrap();
            rest.split([',', ' ']).next().unwrap().to_owned()
        };
        flows.map(destination).collect()
    }
}

#[test]
fn addresses_come_into_the_lock_file_and_from_there_into_flows() {
    let state = State::new(&["www.example.com", "alias.example.com"]);
    state.server.has("www.example.com", &["203.0.113.9", "203.0.113.7"]);
    state.server.says("alias.example.com", Says::Alias("far.example.net", 30, true));
    state.server.has("far.example.net", &["198.51.100.7"]);
    // In either order with `lock`, which keeps what `resolve` wrote and the other way round.
    assert_eq!(state.run(&["lock", "."]).status, 0);
    let unresolved = state.compile(NOW);
    assert_eq!(unresolved.stderr.matches("error[RF152]").count(), 2, "{}", unresolved.stderr);
    let changes = "+ alias.example.com 198.51.100.7\n+ www.example.com 203.0.113.7\n+ www.example.com 203.0.113.9\n";
    assert_eq!(state.update(NOW), changes);
    let names = [
        "alias.example.com 198.51.100.7: 2026-11-21T12:00:00Z 30",
        "www.example.com 203.0.113.7: 2026-11-21T12:00:00Z 300",
        "www.example.com 203.0.113.9: 2026-11-21T12:00:00Z 300",
    ];
    assert_eq!(state.names(), names);
    let locked = state.lock();
    assert_eq!(state.run(&["lock", "."]).status, 0);
    assert_eq!(state.lock(), locked);
    let compiled = state.compile("2026-11-21T15:20:00Z");
    assert_eq!(
        compiled.stderr.lines().next(),
        Some("2 names, the oldest resolved 3h 20m ago"),
        "{}",
        compiled.stderr
    );
    assert_eq!(state.denied(), ["203.0.113.7", "203.0.113.9", "198.51.100.7"]);
    // What is compiled doesn't depend on the time.
    let again = state.run(&["compile", ".", "--check", "--now", "2026-11-22T11:59:00Z"]);
    assert_eq!(again.status, 0, "{}{}", again.stdout, again.stderr);
    // A name that no rule is for any more leaves.
    state.rules(&["www.example.com"]);
    assert_eq!(state.run(&["compile", "."]).status, 1);
    assert_eq!(state.run(&["lock", "."]).status, 0);
    assert_eq!(state.names(), names[1..]);
}

#[test]
fn pools_that_rotate_keep_what_was_seen_within_hours() {
    let state = State::new(&["pool.example.com"]);
    state.server.has("pool.example.com", &["203.0.113.1", "203.0.113.2"]);
    state.update("2026-11-21T12:00:00Z");
    state.server.has("pool.example.com", &["203.0.113.2", "203.0.113.3"]);
    assert_eq!(state.update("2026-11-21T15:00:00Z"), "+ pool.example.com 203.0.113.3\n");
    assert_eq!(
        state.names(),
        [
            "pool.example.com 203.0.113.1: 2026-11-21T12:00:00Z 300",
            "pool.example.com 203.0.113.2: 2026-11-21T15:00:00Z 300",
            "pool.example.com 203.0.113.3: 2026-11-21T15:00:00Z 300",
        ]
    );
    // Nothing new, nothing too old, nothing to write.
    let check = |now| {
        let run = state.resolve(now, &["--check"]);
        (run.status, run.stdout)
    };
    let before = state.lock();
    assert_eq!(check("2026-11-21T17:00:00Z"), (0, String::new()));
    // What rotates is confirmed before it could be given up.
    let (status, ageing) = check("2026-11-21T18:00:01Z");
    assert_eq!(status, 2);
    assert!(ageing.contains("- pool.example.com 203.0.113.1, last seen 6h ago\n"), "{ageing}");
    assert_eq!(state.lock(), before, "--check writes nothing");
    assert_eq!(
        state.update("2026-11-21T18:00:01Z"),
        "- pool.example.com 203.0.113.1, last seen 6h ago\n"
    );
    // All that is known is answered: half of the maximum age is soon enough.
    assert_eq!(check("2026-11-22T05:00:00Z"), (0, String::new()));
    let (status, ageing) = check("2026-11-22T06:00:02Z");
    assert_eq!(status, 2);
    assert_eq!(ageing, "= pool.example.com, resolved 12h ago, confirmed at half of 1d\n");
}

#[test]
fn a_check_tells_of_a_new_address_at_once() {
    let state = State::new(&["www.example.com"]);
    state.server.has("www.example.com", &["203.0.113.1"]);
    state.update(NOW);
    state.server.has("www.example.com", &["203.0.113.2"]);
    let run = state.resolve("2026-11-21T12:15:00Z", &["--check"]);
    assert_eq!((run.status, run.stdout.as_str()), (2, "+ www.example.com 203.0.113.2\n"));
    assert!(run.stderr.ends_with("an update is due\n"), "{}", run.stderr);
}

#[test]
fn every_name_that_fails_is_told_of_and_nothing_is_written() {
    let names = [
        "gone.example.com",
        "broken.example.com",
        "refused.example.com",
        "six.example.com",
        "empty.example.com",
        "inside.example.com",
        "blocked.example.com",
        "www.example.com",
    ];
    let state = State::new(&names);
    state.server.says("broken.example.com", Says::Code(ResponseCode::ServFail));
    state.server.says("refused.example.com", Says::Code(ResponseCode::Refused));
    state.server.says("six.example.com", Says::OnlyIpv6);
    state.server.has("empty.example.com", &[]);
    state.server.has("inside.example.com", &["203.0.113.7", "10.128.0.7"]);
    state.server.has("blocked.example.com", &["0.0.0.0"]);
    state.server.has("www.example.com", &["203.0.113.7"]);
    let run = state.resolve(NOW, &[]);
    assert_eq!((run.status, run.stdout.as_str(), state.lock().as_str()), (1, "", ""));
    let told: Vec<&str> =
        run.stderr.lines().filter_map(|line| line.strip_prefix("error[")).collect();
    assert_eq!(
        told,
        [
            "RF153]: gone.example.com was not resolved: it does not exist (NXDOMAIN)",
            "RF153]: broken.example.com was not resolved: the name server failed (SERVFAIL)",
            "RF153]: refused.example.com was not resolved: the name server refused (REFUSED)",
            "RF153]: six.example.com was not resolved: it has no IPv4 address",
            "RF153]: empty.example.com was not resolved: it has no IPv4 address",
            "RF156]: inside.example.com has the address 10.128.0.7, in the cluster network \
             10.128.0.0/14, which no egress policy is about",
            "RF156]: blocked.example.com has the address 0.0.0.0, in the range of this host \
             0.0.0.0/8",
        ]
    );
}

#[test]
fn a_name_server_that_fails_for_a_while_changes_nothing() {
    let state = State::new(&["www.example.com", "api.example.com"]);
    state.server.has("www.example.com", &["203.0.113.7"]);
    state.server.has("api.example.com", &["198.51.100.7"]);
    state.update(NOW);
    state.server.says("www.example.com", Says::Code(ResponseCode::ServFail));
    state.server.has("api.example.com", &["198.51.100.8"]);
    let run = state.resolve("2026-11-21T14:00:00Z", &[]);
    let warning = "warning[RF154]: www.example.com was not resolved: the name server failed \
                   (SERVFAIL); its addresses of 2h ago stay\n";
    assert!(run.stderr.starts_with(warning), "{}", run.stderr);
    assert_eq!((run.status, run.stdout.as_str()), (0, "+ api.example.com 198.51.100.8\n"));
    assert_eq!(
        state.names(),
        [
            "api.example.com 198.51.100.7: 2026-11-21T12:00:00Z 300",
            "api.example.com 198.51.100.8: 2026-11-21T14:00:00Z 300",
            "www.example.com 203.0.113.7: 2026-11-21T12:00:00Z 300",
        ]
    );
    // Not for ever: first it can't be resolved, and soon it can't be compiled either.
    let late = state.resolve("2026-11-22T12:00:01Z", &[]);
    assert!(late.stderr.starts_with("error[RF153]: www.example.com was not"), "{}", late.stderr);
    assert_eq!(state.run(&["lock", "."]).status, 0);
    assert_eq!(state.compile("2026-11-22T12:00:00Z").status, 0);
    let old = state.compile("2026-11-22T12:00:01Z");
    assert_eq!(old.status, 1);
    assert!(old.stderr.starts_with("error[RF155]: www.example.com was resolved 1d ago"));
}

#[test]
fn nobody_answers() {
    let state = State::new(&["www.example.com"]);
    state.server.says("www.example.com", Says::Nothing);
    let run = state.resolve(NOW, &[]);
    let error = "error[RF153]: www.example.com was not resolved: no name server answers\n";
    assert!(run.stderr.starts_with(error), "{}", run.stderr);
    assert_eq!(run.status, 1);
    // The next server in the list does, also where the first one fails.
    let other = Server::start();
    other.has("www.example.com", &["203.0.113.7"]);
    let [first, second] = [state.server.address, other.address].map(|server| server.to_string());
    let run = state.resolve(NOW, &["--server", &first, "--server", &second]);
    assert_eq!((run.status, run.stdout.as_str()), (0, "+ www.example.com 203.0.113.7\n"));
    state.server.says("www.example.com", Says::Code(ResponseCode::ServFail));
    other.has("www.example.com", &["203.0.113.8"]);
    let run = state.resolve(NOW, &["--server", &first, "--server", &second]);
    assert_eq!((run.status, run.stdout.as_str()), (0, "+ www.example.com 203.0.113.8\n"));
    // That there is no such name is an answer.
    state.server.zone.lock().unwrap().clear();
    let run = state.resolve(NOW, &["--server", &first, "--server", &second]);
    assert!(run.stderr.contains("does not exist"), "{}", run.stderr);
}

#[test]
fn large_answers_are_taken_whole_and_too_large_ones_not_at_all() {
    let state = State::new(&["large.example.com", "chain.example.com"]);
    let addresses = |number: u16| -> Vec<Ipv4Addr> {
        (0..number)
            .map(|n| Ipv4Addr::from(u32::from(Ipv4Addr::new(203, 0, 112, 0)) + u32::from(n)))
            .collect()
    };
    // 200 records don't fit into a datagram: the answer is truncated, and comes by TCP.
    state.server.says("large.example.com", Says::Addresses(addresses(200), 0));
    // Each name of the chain is asked for on its own.
    state.server.says("chain.example.com", Says::Alias("a.example.net", 600, false));
    state.server.says("a.example.net", Says::Alias("b.example.net", 20, false));
    state.server.has("b.example.net", &["198.51.100.7"]);
    state.update(NOW);
    let names = state.names();
    assert_eq!(names.len(), 201);
    assert_eq!(names[0], "chain.example.com 198.51.100.7: 2026-11-21T12:00:00Z 20");
    assert_eq!(names[200], "large.example.com 203.0.112.199: 2026-11-21T12:00:00Z 0");
    state.server.says("large.example.com", Says::Addresses(addresses(257), 0));
    let run = state.resolve(NOW, &[]);
    let error = "error[RF157]: large.example.com has 257 addresses\n";
    assert!(run.stderr.starts_with(error), "{}", run.stderr);
    assert_eq!((run.status, state.names()), (1, names));
    // An alias of itself has no end, and no address.
    state.rules(&["chain.example.com"]);
    state.server.says("b.example.net", Says::Alias("a.example.net", 20, false));
    let run = state.resolve("2026-11-23T12:00:00Z", &[]);
    assert!(run.stderr.starts_with("error[RF153]: chain.example.com was not"), "{}", run.stderr);
}

#[test]
fn without_a_name_server_there_is_nobody_to_ask() {
    let state = State::new(&["www.example.com"]);
    let path = state.directory.path().join("network.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with("cluster"));
    let text = lines.collect::<Vec<_>>().join("\n");
    fs::write(&path, text).unwrap();
    // An empty file of its own in place of the machine's.
    let script = "mount --bind /dev/null /etc/resolv.conf && exec \"$0\" resolve .";
    let words = ["--mount", "sh", "-c", script, PROGRAM];
    let run = duct::cmd("unshare", words)
        .dir(state.directory.path())
        .stderr_to_stdout()
        .stdout_capture()
        .unchecked()
        .run()
        .unwrap();
    let printed = String::from_utf8(run.stdout).unwrap();
    let error = "error[RF158]: `/etc/resolv.conf` names no name server";
    assert!(printed.starts_with(error), "{printed}");
    assert_eq!(run.status.code(), Some(1));
    // Without names nobody is asked.
    let run =
        crate::support::ringfence(&root().join("examples/quickstart"), &["resolve", "--check"]);
    assert_eq!(
        (run.status, run.stderr.as_str()),
        (0, "ringfence.lock: 0 names, 0 addresses, no update is due\n")
    );
}

#[test]
fn a_merge_of_two_resolved_branches_is_told_of() {
    let state = State::new(&["www.example.com"]);
    state.server.has("www.example.com", &["203.0.113.7"]);
    state.update(NOW);
    let entry = "  www.example.com 203.0.113.7: 2026-11-21T12:00:00Z 300\n";
    let later = "  www.example.com 203.0.113.7: 2026-11-21T13:00:00Z 300\n";
    let both = state.lock().replace(entry, &format!("{entry}{later}"));
    fs::write(state.directory.path().join("ringfence.lock"), both).unwrap();
    let run = state.compile(NOW);
    assert!(run.stderr.starts_with("error[RF102]: the lock file is ambiguous"), "{}", run.stderr);
}

#[test]
fn times_that_are_none_are_refused() {
    let state = State::new(&["www.example.com"]);
    assert_eq!(state.resolve("yesterday", &[]).status, 64);
    assert_eq!(state.resolve(NOW, &["--server", "dns.example.com"]).status, 64);
    let run = duct::cmd(PROGRAM, ["compile", "."])
        .dir(state.directory.path())
        .env("SOURCE_DATE_EPOCH", "yesterday")
        .stderr_to_stdout()
        .stdout_capture()
        .unchecked()
        .run()
        .unwrap();
    let printed = String::from_utf8(run.stdout).unwrap();
    let error = "error[RF008]: `yesterday` in SOURCE_DATE_EPOCH is not a time\n";
    assert!(printed.starts_with(error), "{printed}");
}
