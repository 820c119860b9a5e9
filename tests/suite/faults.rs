//! What stops `apply`, in its exact words, and that the node stays as it was.
//!
//! Faults of the files are shown without a node: a machine that refuses every question stands in.
//! Faults of the node are shown on a node of the lab, most of them by another program in the place
//! of the real one.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::lab::{Live, live};
use crate::support::{root, tree};
use ringfence::apply::{Options, apply};
use ringfence::diagnostic::{Code, Diagnostic};
use ringfence::plan::Wiring;
use ringfence::render::Manifest;
use ringfence::system::netlink::Network;
use ringfence::system::{Command, Output, System, Tool};
use ringfence::value::NetnsName;

/// A machine that nobody may look at, far less change.
struct Untouchable {
    root: bool,
    lacks: Option<Tool>,
}

impl System for Untouchable {
    fn run(&self, command: &Command) -> Result<Output, Diagnostic> {
        panic!("`{command}` was run")
    }

    fn has(&self, tool: Tool) -> bool {
        self.lacks != Some(tool)
    }

    fn is_root(&self) -> bool {
        self.root
    }

    fn netns_names(&self) -> Result<Vec<String>, Diagnostic> {
        panic!("the namespaces were read")
    }

    fn network(&self) -> Result<Network, Diagnostic> {
        panic!("the links were read")
    }

    fn networks(&self, _: &[&NetnsName]) -> Result<Vec<Option<Network>>, Diagnostic> {
        panic!("the links were read")
    }

    fn sysctl(&self, _: &str) -> Option<String> {
        panic!("a kernel setting was read")
    }
}

/// What `apply` says of these files on a machine that it may not touch, with the path of the
/// directory as DIR: code, message and help.
fn refusal(directory: &Path, system: &Untouchable) -> (Code, String, String) {
    let state = directory.join("state");
    let options = Options { state: state.clone(), ..Options::default() };
    let diagnostic = apply(directory, &options, system).unwrap_err();
    assert!(!state.exists(), "the state was touched");
    let text = |text: &str| text.replace(&directory.display().to_string(), "DIR");
    (diagnostic.code, text(&diagnostic.message), text(&diagnostic.help.unwrap_or_default()))
}

/// A machine on which the check of the files is followed by the question for root.
const USER: Untouchable = Untouchable { root: false, lacks: None };

/// A copy of the files of a node.
fn files() -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for (path, bytes) in tree(&root().join("golden/quickstart/node-1")) {
        let path = copy.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    copy
}

fn manifest(directory: &Path) -> Manifest {
    serde_json::from_slice(&fs::read(directory.join("manifest.json")).unwrap()).unwrap()
}

/// Writes a file and gives the manifest its digest, as an attacker would.
fn forge(directory: &Path, path: &str, bytes: &[u8]) {
    fs::write(directory.join(path), bytes).unwrap();
    let mut manifest = manifest(directory);
    manifest.files.insert(path.to_owned(), blake3::hash(bytes).to_hex().to_string());
    let text = serde_json::to_vec(&manifest).unwrap();
    fs::write(directory.join("manifest.json"), text).unwrap();
}

const RECOMPILE: &str = "compile with the version of ringfence that applies";
const NAME_A_NODE: &str = "name the directory of one node in the output, such as out/node-1";

#[test]
fn the_files_as_they_are_pass() {
    let files = files();
    let expected = (
        Code::NotRoot,
        "applying takes the rights of root".to_owned(),
        "run it as root, or with sudo".to_owned(),
    );
    assert_eq!(refusal(files.path(), &USER), expected);
    // What the manifest doesn't list is never read.
    fs::write(files.path().join("extra.nft"), "flush ruleset").unwrap();
    symlink("/dev/zero", files.path().join("endless")).unwrap();
    assert_eq!(refusal(files.path(), &USER), expected);
}

#[test]
fn the_program_refuses_other_users() {
    // RF200: without the rights of root, though the files can be read.
    let files = files();
    let state = files.path().join("state");
    let words = ["--user", "--", crate::support::PROGRAM, "apply"];
    let paths = [files.path().to_str().unwrap(), "--state", state.to_str().unwrap()];
    for check in [&[][..], &["--check"]] {
        let words = words.iter().chain(&paths).chain(check);
        let run = duct::cmd("unshare", words).stdout_capture().stderr_capture().unchecked();
        let run = run.run().unwrap();
        assert_eq!(String::from_utf8_lossy(&run.stdout), "");
        assert_eq!(
            String::from_utf8_lossy(&run.stderr),
            "error[RF200]: applying takes the rights of root\n |\n = help: run it as root, or \
             with sudo\n\n1 error\n"
        );
        assert_eq!(run.status.code(), Some(1));
        assert!(!state.exists());
    }
}

#[test]
fn a_missing_program_is_found_out_before_anything_is_run() {
    let directory = root().join("golden/quickstart/node-1");
    let packages = [
        (Tool::Ip, "ip", "iproute2"),
        (Tool::Nft, "nft", "nftables"),
        (Tool::OvsVsctl, "ovs-vsctl", "openvswitch-switch"),
        (Tool::OvsOfctl, "ovs-ofctl", "openvswitch-switch"),
        (Tool::OvsdbClient, "ovsdb-client", "openvswitch-common"),
        (Tool::Sysctl, "sysctl", "procps"),
    ];
    let lacking = |tool| Untouchable { root: true, lacks: Some(tool) };
    for (tool, name, package) in packages {
        let expected = (
            Code::ToolMissing,
            format!("`{name}` is not installed"),
            format!("on Debian: apt-get install {package}"),
        );
        assert_eq!(refusal(&directory, &lacking(tool)), expected);
    }
    // RF201: ethtool is for the userspace datapath only.
    let files = files();
    let path = files.path().join("node.json");
    let text = fs::read_to_string(&path).unwrap().replace("\"system\"", "\"netdev\"");
    forge(files.path(), "node.json", text.as_bytes());
    let expected = (
        Code::ToolMissing,
        "`ethtool` is not installed".to_owned(),
        "on Debian: apt-get install ethtool".to_owned(),
    );
    assert_eq!(refusal(files.path(), &lacking(Tool::Ethtool)), expected);
}

#[test]
fn only_the_directory_of_one_node_is_applied() {
    // RF202 in all its forms.
    let empty = tempfile::tempdir().unwrap();
    let golden = root().join("golden/quickstart");
    let missing = "cannot read `DIR/manifest.json`: No such file or directory (os error 2)";
    let cases = [
        (empty.path().to_owned(), missing, NAME_A_NODE),
        (empty.path().join("nowhere"), missing, NAME_A_NODE),
        (
            golden.join("node-1/node.json"),
            "cannot read `DIR/manifest.json`: Not a directory (os error 20)",
            NAME_A_NODE,
        ),
        (
            // That of the whole tree.
            golden,
            "`manifest.json` is not as ringfence writes it: unknown field `ringfence`, expected \
             one of `version`, `node`, `generation`, `files` at line 3 column 13",
            RECOMPILE,
        ),
    ];
    for (directory, message, help) in cases {
        let expected = (Code::NotOutputDirectory, message.to_owned(), help.to_owned());
        assert_eq!(refusal(&directory, &USER), expected);
    }
}

#[test]
fn each_file_is_the_one_of_the_manifest() {
    // RF203: changed, cut off, missing, exchanged for another.
    let files = files();
    let listed: Vec<String> = manifest(files.path()).files.into_keys().collect();
    assert_eq!(listed.len(), 10);
    for path in &listed {
        let full = files.path().join(path);
        let good = fs::read(&full).unwrap();
        let changed = [good.as_slice(), b"\n"].concat();
        let cut = good[..good.len() / 2].to_vec();
        let mut flipped = good.clone();
        flipped[good.len() / 3] ^= 1;
        for bytes in [changed, cut, flipped, Vec::new()] {
            fs::write(&full, bytes).unwrap();
            let expected = (
                Code::Tampered,
                format!("`{path}` is not the file that the manifest names"),
                "it was changed or copied in part: copy the whole directory again, or compile"
                    .to_owned(),
            );
            assert_eq!(refusal(files.path(), &USER), expected);
        }
        fs::remove_file(&full).unwrap();
        let message = format!("cannot read `DIR/{path}`: No such file or directory (os error 2)");
        let expected = (Code::Tampered, message, NAME_A_NODE.to_owned());
        assert_eq!(refusal(files.path(), &USER), expected);
        fs::write(&full, good).unwrap();
    }
    assert_eq!(refusal(files.path(), &USER).0, Code::NotRoot);
}

#[test]
fn no_path_of_a_manifest_leads_out_of_the_directory() {
    let files = files();
    let good = fs::read(files.path().join("manifest.json")).unwrap();
    let secret = blake3::hash(&fs::read("/etc/hostname").unwrap()).to_hex().to_string();
    let paths = [
        "../../../etc/hostname",
        "/etc/hostname",
        "routers/../../etc/hostname",
        "./x",
        "..",
        "a\u{1b}[2Jb",
    ];
    for path in paths {
        let mut manifest: Manifest = serde_json::from_slice(&good).unwrap();
        manifest.files.insert(path.to_owned(), secret.clone());
        fs::write(files.path().join("manifest.json"), serde_json::to_vec(&manifest).unwrap())
            .unwrap();
        let path = path.replace('\u{1b}', "\\u{1b}");
        let message = format!("the manifest lists `{path}`, which leads nowhere in the directory");
        assert_eq!(refusal(files.path(), &USER), (Code::Tampered, message, String::new()));
    }
}

#[test]
fn what_is_no_file_or_too_large_is_not_read() {
    let files = files();
    let path = files.path().join("notes.md");
    let special: [(&str, &dyn Fn()); 3] = [
        ("not a regular file", &|| fs::create_dir(&path).unwrap()),
        ("not a regular file", &|| drop(duct::cmd!("mkfifo", &path).run().unwrap())),
        ("too large to be a file of ringfence", &|| {
            fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        }),
    ];
    for (reason, make) in special {
        if fs::remove_file(&path).is_err() {
            fs::remove_dir(&path).unwrap();
        }
        make();
        let message = format!("cannot read `DIR/notes.md`: {reason}");
        let expected = (Code::Tampered, message, NAME_A_NODE.to_owned());
        assert_eq!(refusal(files.path(), &USER), expected);
    }
}

#[test]
fn symbolic_links_are_not_followed() {
    // RF217: wherever they lead, even to the very file, and for every part of the path.
    let help = "copy the files themselves, for example with `rsync --copy-links`".to_owned();
    let (good, elsewhere) = (files(), files());
    let paths: Vec<String> = manifest(good.path()).files.into_keys().collect();
    for path in paths.iter().map(String::as_str).chain(["manifest.json", "routers"]) {
        let files = files();
        let full = files.path().join(path);
        if full.is_dir() {
            fs::remove_dir_all(&full).unwrap();
        } else {
            fs::remove_file(&full).unwrap();
        }
        symlink(elsewhere.path().join(path), &full).unwrap();
        let message = format!("`DIR/{path}` is a symbolic link");
        let expected = (Code::SymbolicLink, message, help.clone());
        assert_eq!(refusal(files.path(), &USER), expected);
    }
    // The directory itself is named by whoever calls.
    let named = tempfile::tempdir().unwrap();
    let link = named.path().join("current");
    symlink(good.path(), &link).unwrap();
    assert_eq!(refusal(&link, &USER).0, Code::NotRoot);
}

#[test]
fn what_is_compiled_is_not_written_through_symbolic_links() {
    let (out, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    symlink(elsewhere.path(), out.path().join("node-1")).unwrap();
    let network = root().join("examples/flat");
    let words = ["compile", network.to_str().unwrap(), "-o", out.path().to_str().unwrap()];
    let run = crate::support::ringfence(root(), &words);
    let message = format!(
        "error[RF217]: `{}/node-1` is a symbolic link\n |\n = help: name the directory that it leads \
         to with --out\n",
        out.path().display()
    );
    assert_eq!(run.status, 1);
    assert!(run.stderr.starts_with(&message), "{}", run.stderr);
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}

/// What has become of `manifest.json`, and what is said of it.
const BROKEN_MANIFESTS: &[(&str, &str)] = &[
    ("", "EOF while parsing a value at line 1 column 0"),
    ("{\"version\": 1", "EOF while parsing an object at line 1 column 13"),
    ("[]", "invalid length 0, expected struct Manifest with 4 elements at line 1 column 2"),
    ("\u{feff}{}", "expected value at line 1 column 1"),
    ("null", "invalid type: null, expected struct Manifest at line 1 column 4"),
];

#[test]
fn a_broken_manifest_is_named() {
    let files = files();
    for (text, reason) in BROKEN_MANIFESTS {
        fs::write(files.path().join("manifest.json"), text).unwrap();
        let message = format!("`manifest.json` is not as ringfence writes it: {reason}");
        let expected = (Code::NotOutputDirectory, message, RECOMPILE.to_owned());
        assert_eq!(refusal(files.path(), &USER), expected, "{text:?}");
    }
    fs::write(
        files.path().join("manifest.json"),
        "{\"version\": 2, \"node\": \"node-1\", \"generation\": \"\", \"files\": {}}",
    )
    .unwrap();
    let message = "`manifest.json` has the unknown version 2".to_owned();
    let expected = (Code::NotOutputDirectory, message, RECOMPILE.to_owned());
    assert_eq!(refusal(files.path(), &USER), expected);
}

#[test]
fn every_file_that_is_used_has_to_be_in_the_manifest() {
    let files = files();
    let good = fs::read(files.path().join("manifest.json")).unwrap();
    let used = [
        "flows.ofctl",
        "node.json",
        "routers/supplier/ruleset.nft",
        "ruleset.nft",
        "sourcemap.json",
    ];
    for path in used {
        let mut manifest: Manifest = serde_json::from_slice(&good).unwrap();
        manifest.files.remove(path).unwrap();
        fs::write(files.path().join("manifest.json"), serde_json::to_vec(&manifest).unwrap())
            .unwrap();
        let message = format!("the manifest doesn't list `{path}`");
        let expected = (Code::NotOutputDirectory, message, RECOMPILE.to_owned());
        assert_eq!(refusal(files.path(), &USER), expected);
    }
}

/// Parts of `node.json` that are exchanged under a manifest that fits, and what is said of it.
const FORGED_WIRING: &[(&str, &str, &str)] = &[
    ("\"version\": 1", "\"version\": 7", "`node.json` has the unknown version 7"),
    (
        "\"br0\"",
        "\"br0; reboot\"",
        "`br0; reboot` is not the name of a network interface at line 7 column 31",
    ),
    (
        "\"br0\"",
        "\"a-name-of-16-byt\"",
        "`a-name-of-16-byt` is not the name of a network interface at line 7 column 36",
    ),
    (
        "\"eth0\"",
        "\"../eth0\"",
        "`../eth0` is not the name of a network interface at line 22 column 74",
    ),
    (
        "\"audit.log-0\"",
        "\"../../etc\"",
        "`../../etc` is not the name of a network namespace at line 16 column 19",
    ),
    (
        "\"audit.log-0\"",
        "\"-batch\"",
        "`-batch` is not the name of a network namespace at line 16 column 16",
    ),
    ("\"ofport\":105", "\"ofport\":0", "no pod has the port 0 at line 10 column 41"),
    (
        "\"ofport\":105",
        "\"ofport\":65536",
        "invalid value: integer `65536`, expected u16 at line 10 column 45",
    ),
    ("\"ofport\":105", "\"ofport\":65535", "no pod has the port 65535 at line 10 column 45"),
    ("\"10.128.0.1/23\"", "\"10.128.0.1/33\"", "invalid IP address syntax at line 8 column 59"),
    (
        "\"mtu\": 1450",
        "\"mtu\": -1",
        "invalid value: integer `-1`, expected u32 at line 5 column 9",
    ),
    (
        "\"system\"",
        "\"kernel\"",
        "unknown variant `kernel`, expected `system` or `netdev` at line 7 column 43",
    ),
    ("\"0x1afb0aca381595cf\"", "\"1afb\"", "not a cookie at line 10 column 86"),
    (
        "\"version\": 1",
        "\"version\": 1, \"version\": 1",
        "duplicate field `version` at line 2 column 23",
    ),
    (
        "\"version\": 1",
        "\"version\": 1, \"run\": \"reboot\"",
        "unknown field `run`, expected one of `version`, `node`, `address`, `mtu`, `podNetworks`, `bridge`, `tun`, `ports`, `netns`, `routers`, `sysctls` at line 2 column 19",
    ),
    (
        "\"pod audit/log-0\"",
        "\"pod audit/log-0\\nlink del eth0\"",
        "`pod audit/log-0\\nlink del eth0` is not the name of an owner at line 12 column 84",
    ),
    (
        "\"pod audit/log-0\"",
        "\"\\\" up; link del eth0\"",
        "`\" up; link del eth0` is not the name of an owner at line 12 column 74",
    ),
    (
        "\"net.ipv4.ip_forward\"",
        "\"kernel.core_pattern\"",
        "`kernel.core_pattern=1` is no setting of the network at line 25 column 1",
    ),
    (
        "\"net.ipv4.ip_forward\"",
        "\"net.../kernel/core_pattern\"",
        "`net.../kernel/core_pattern=1` is no setting of the network at line 25 column 1",
    ),
    (
        "\"net.ipv4.ip_forward\":\"1\"",
        "\"net.ipv4.ip_forward\":\"1 -w kernel.panic=1\"",
        "`net.ipv4.ip_forward=1 -w kernel.panic=1` is no setting of the network at line 25 column 1",
    ),
];

#[test]
fn a_forged_plan_is_parsed_at_the_door() {
    let files = files();
    let good = fs::read_to_string(files.path().join("node.json")).unwrap();
    let mut wrong = Vec::new();
    for (old, new, message) in FORGED_WIRING {
        assert!(good.contains(old), "{old}");
        forge(files.path(), "node.json", good.replacen(old, new, 1).as_bytes());
        let (code, found, help) = refusal(files.path(), &USER);
        let found = found.replace("`node.json` is not as ringfence writes it: ", "");
        if (code, found.as_str(), help.as_str()) != (Code::NotOutputDirectory, message, RECOMPILE) {
            wrong.push(format!("{new}: {code} {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let wiring: Wiring = serde_json::from_str(&good).unwrap();
    assert_eq!(wiring.version, Wiring::VERSION);
}

/// Two nodes; on the first, a pod, a virtual machine's tap and an egress router.
const NETWORK: &str = "\
version: 1
nodes:
  - name: node-1
    address: 192.168.12.11
    uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}
  - name: node-2
    address: 192.168.12.12
    uplink: {interface: eth0, subnet: 192.168.12.0/24, gateway: 192.168.12.1}
projects:
  - name: shop
    pods:
      - {name: web-0, node: node-1}
      - {name: vm-0, node: node-1, interface: tap7}
      - {name: web-1, node: node-2}
egressRouters:
  - name: supplier
    project: shop
    source: 192.168.12.99
    gateway: 192.168.12.1
    destination: 203.0.113.25
    node: node-1
";

/// Everything that apply may change on node-1.
const STATE: &str = "\
export PATH=/run/real:$PATH
ovs-vsctl --timeout=2 show | tail -n +2
ovs-vsctl --timeout=2 --columns=name,type,options,ofport,external_ids,mac list interface
ovs-vsctl --timeout=2 --columns=name,external_ids,fail_mode list bridge
ovs-ofctl -O OpenFlow14 dump-flows br0 --no-stats
for netns in $(ip netns list | cut -d' ' -f1); do
  ip -n $netns -4 addr; ip -n $netns route; ip netns exec $netns nft list ruleset
done
ip -4 addr; ip -br link; ip route; nft list ruleset; sysctl net.ipv4.ip_forward
cat /run/ringfence/state.json";

/// A node on which things go wrong.
struct Node {
    live: Live,
}

impl Node {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("network.yaml"), NETWORK).unwrap();
        let node = Self { live: live(directory.path()) };
        let copies = "mkdir /run/real /run/fake; cd /usr/sbin; cp ip nft ethtool sysctl /run/real; \
                      cd /usr/bin; cp ovs-vsctl ovs-ofctl ovsdb-client /run/real";
        node.on(copies);
        node
    }

    fn on(&self, command: &str) -> String {
        self.live.on("node-1", command)
    }

    fn state(&self) -> String {
        self.on(&format!("{{ {STATE}; }} 2>&1 || true"))
    }

    /// Puts a shell script in the place of a program; the real one is in `/run/real`.
    fn replace(&self, program: &str, script: &str) {
        let script = format!("#!/bin/sh\n{script}\nexec /run/real/{program} \"$@\"\n");
        let quoted = shlex::try_quote(&script).unwrap().into_owned();
        self.on(&format!(
            "printf %s {quoted} >/run/fake/{program}; chmod +x /run/fake/{program}; \
             mount --bind /run/fake/{program} $(readlink -f $(command -v {program}))"
        ));
    }

    /// Puts the real program into its place again.
    fn restore(&self, program: &str) {
        self.on(&format!("umount $(readlink -f $(command -v {program}))"));
    }

    /// Runs apply and tells its standard error and exit status.
    fn apply(&self, files: &str, arguments: &[&str]) -> (String, i32) {
        let id = self.live.node("node-1");
        let files = self.live.lab.files(self.live.node(files));
        let files = files.to_str().unwrap();
        let words: Vec<&str> = ["apply", files].iter().chain(arguments).copied().collect();
        let output = self.live.lab.ringfence(id, &words).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        (stderr, output.status.code().unwrap())
    }
}

#[test]
fn explore() {
    let node = Node::new();
    let t = std::time::Instant::now();
    let show = |what: &str, (text, status): (String, i32), same: bool| {
        eprintln!("=== {what} [{status}] same={same} {:?}\n{text}", t.elapsed());
    };
    let run = |what: &str, files: &str, before: &str, after: &str, arguments: &[&str]| {
        node.on(before);
        let state = node.state();
        let outcome = node.apply(files, arguments);
        let new = node.state();
        if state != new && outcome.1 != 0 {
            let diff = similar::TextDiff::from_lines(&state, &new);
            eprintln!("{}", diff.unified_diff().context_radius(0));
        }
        show(what, outcome, state == new);
        node.on(after);
    };
    eprintln!("{}", node.state());
    run(
        "tun0",
        "node-1",
        "ip link add tun0 type bridge; ip addr add 10.9.9.1/24 dev tun0",
        "ip link del tun0",
        &[],
    );
    run(
        "ovsdb",
        "node-1",
        "pkill -x ovsdb-server; sleep 0.3",
        "ovsdb-server /etc/openvswitch/conf.db --remote=punix:/run/openvswitch/db.sock --pidfile --detach --no-chdir --log-file -vconsole:off",
        &[],
    );
    run(
        "eth0 in netns",
        "node-1",
        "ip netns add shop.web-0; ip -n shop.web-0 link add eth0 type bridge",
        "ip netns del shop.web-0",
        &[],
    );
    run(
        "router netns",
        "node-1",
        "ip netns add router_supplier; ip -n router_supplier link add eth0 type bridge",
        "ip netns del router_supplier",
        &[],
    );
    node.replace("nft", "case $* in '-f -') echo boom >&2; exit 3;; esac");
    run("nft", "node-1", "true", "true", &[]);
    node.restore("nft");
    node.replace("nft", "case $* in 'list tables') kill -9 $$;; esac");
    run("nft", "node-1", "true", "true", &[]);
    node.restore("nft");
    node.replace("ovs-ofctl", "case $* in *bundle*) cat >/dev/null; exit 0;; esac");
    run("bundle", "node-1", "true", "true", &[]);
    node.restore("ovs-ofctl");
    run("good", "node-1", "true", "true", &[]);
    run("killed vswitchd", "node-1", "pkill -9 -x ovs-vswitchd", "true", &["--check"]);
    run("killed vswitchd", "node-1", "true", "true", &[]);
    run(
        "veth",
        "node-1",
        "ip link add $(grep -o 'rf-[0-9a-f]*' OUT | head -1) type dummy || true",
        "true",
        &["--check"],
    );
}
