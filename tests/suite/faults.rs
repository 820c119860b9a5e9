//! What stops `apply`, in its exact words, and that the node stays as it was.
//!
//! Faults of the files are shown without a node: a machine that refuses every question stands in.
//! Faults of the node are shown on a node of the lab, most of them by another program in the place
//! of the real one.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::lab::{Live, live};
use crate::support::{compiled, root, tree};
use ringfence::apply::{Options, apply};
use ringfence::artifact::manifest::Manifest;
use ringfence::artifact::node::NodeConfig;
use ringfence::diagnostic::{Code, Diagnostic};
use ringfence::lab;
use ringfence::system::netlink::Network;
use ringfence::system::netlink::holdings::Holdings;
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

    fn holdings(&self) -> Result<Holdings, Diagnostic> {
        panic!("the links were read")
    }

    fn networks(&self, _: &[&NetnsName]) -> Result<Vec<Option<Network>>, Diagnostic> {
        panic!("the links were read")
    }

    fn sysctl(&self, _: &str) -> Option<String> {
        panic!("a kernel setting was read")
    }

    fn file(&self, path: &Path) -> Option<Vec<u8>> {
        panic!("{} was read", path.display())
    }

    fn directory(&self, path: &Path) -> Option<Vec<String>> {
        panic!("{} was read", path.display())
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
    copy_of("quickstart", "node-1")
}

fn copy_of(example: &str, node: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for (path, bytes) in tree(&compiled(example).path().join(node)) {
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
        "this must run as root".to_owned(),
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
    // RF200: without being root, though the files can be read.
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
            "error[RF200]: this must run as root\n |\n = help: run it as root, or \
             with sudo\n\n1 error\n"
        );
        assert_eq!(run.status.code(), Some(1));
        assert!(!state.exists());
    }
}

#[test]
fn a_missing_program_is_found_out_before_anything_is_run() {
    let directory = files();
    let packages = [
        (Tool::Ip, "ip", "iproute2"),
        (Tool::Nft, "nft", "nftables"),
        (Tool::Conntrack, "conntrack", "conntrack"),
        (Tool::OvsVsctl, "ovs-vsctl", "openvswitch-switch"),
        (Tool::OvsOfctl, "ovs-ofctl", "openvswitch-switch"),
        (Tool::OvsAppctl, "ovs-appctl", "openvswitch-common"),
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
        assert_eq!(refusal(directory.path(), &lacking(tool)), expected);
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
    // Proxies are for nodes with a router that is one.
    for (tool, name) in [(Tool::Squid, "squid"), (Tool::Haproxy, "haproxy")] {
        let copy = copy_of("egress-proxies", "node-3");
        let expected = (
            Code::ToolMissing,
            format!("`{name}` is not installed"),
            format!("on Debian: apt-get install {name}"),
        );
        assert_eq!(refusal(copy.path(), &lacking(tool)), expected);
    }
}

#[test]
fn only_the_directory_of_one_node_is_applied() {
    // RF202 in all its forms.
    let empty = tempfile::tempdir().unwrap();
    let golden = root().join("golden/quickstart");
    let missing = "cannot read `DIR/manifest.json`: no such file or directory";
    let cases = [
        (empty.path().to_owned(), missing, NAME_A_NODE),
        (empty.path().join("nowhere"), missing, NAME_A_NODE),
        (
            golden.join("node-1/node.json"),
            "cannot read `DIR/manifest.json`: not a directory",
            NAME_A_NODE,
        ),
        // A whole tree, and a node as it is kept in Git.
        (golden.clone(), missing, NAME_A_NODE),
        (
            golden.join("node-1"),
            missing,
            "manifests are not kept in Git: run `ringfence compile` where you copy the files from",
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
    assert_eq!(listed.len(), 9);
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
        let message = format!("cannot read `DIR/{path}`: no such file or directory");
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
    ("[]", "invalid length 0, expected struct Manifest with 5 elements at line 1 column 2"),
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
        "{\"version\": 1, \"ringfence\": \"\", \"node\": \"node-1\", \"generation\": \"\", \
         \"files\": {}}",
    )
    .unwrap();
    let message = "`manifest.json` has the unknown version 1".to_owned();
    let expected = (Code::NotOutputDirectory, message, RECOMPILE.to_owned());
    assert_eq!(refusal(files.path(), &USER), expected);
}

#[test]
fn every_file_that_is_used_has_to_be_in_the_manifest() {
    let files = files();
    let good = fs::read(files.path().join("manifest.json")).unwrap();
    let used = ["flows.ofctl", "node.json", "routers/supplier/ruleset.nft", "ruleset.nft"];
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
        "`../eth0` is not the name of a network interface at line 22 column 92",
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
        "unknown field `run`, expected one of `version`, `node`, `address`, `mtu`, `podNetworks`, `bridge`, `tun`, `ports`, `netns`, `routers`, `egressIps`, `draining`, `uplink`, `sysctls` at line 2 column 19",
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
        "`kernel.core_pattern=1` is no setting of the network at line 26 column 1",
    ),
    (
        "\"net.ipv4.ip_forward\"",
        "\"net.../kernel/core_pattern\"",
        "`net.../kernel/core_pattern=1` is no setting of the network at line 26 column 1",
    ),
    // As sysctl(8) has it, a slash is a dot in the name of a file.
    (
        "\"net.ipv4.ip_forward\"",
        "\"net.ipv4.//.core.somaxconn\"",
        "`net.ipv4.//.core.somaxconn=1` is no setting of the network at line 26 column 1",
    ),
    (
        "\"net.ipv4.ip_forward\":\"1\"",
        "\"net.ipv4.ip_forward\":\"1 -w kernel.panic=1\"",
        "`net.ipv4.ip_forward=1 -w kernel.panic=1` is no setting of the network at line 26 column 1",
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
    let wiring: NodeConfig = serde_json::from_str(&good).unwrap();
    assert_eq!(wiring.version, NodeConfig::VERSION);
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
if pidof ovsdb-server >/dev/null; then
  ovs-vsctl --timeout=60 show | tail -n +2
  ovs-vsctl --timeout=60 --columns=name,type,options,ofport,external_ids,mac list interface
  ovs-vsctl --timeout=60 --columns=name,external_ids,fail_mode list bridge
fi
ovs-ofctl -O OpenFlow14 --timeout=60 dump-flows br0 --no-stats 2>/dev/null || echo none
for netns in $(ip netns list | cut -d' ' -f1); do
  ip -n $netns -4 addr; ip -n $netns route; ip netns exec $netns nft list ruleset
done
ip -4 addr; ip -br link; ip route; nft list ruleset; sysctl net.ipv4.ip_forward
grep -v applied /run/ringfence/state.json";

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

    /// Runs ringfence and tells its standard error and exit status.
    fn ringfence(&self, words: &[&str]) -> (String, i32) {
        let output = self.live.lab.ringfence(self.live.node("node-1"), words).unwrap();
        (String::from_utf8(output.stderr).unwrap(), output.status.code().unwrap())
    }

    /// Applies the files of a node.
    fn apply(&self, files: &str, arguments: &[&str]) -> (String, i32) {
        let files = self.live.lab.files(self.live.node(files));
        let words: Vec<&str> =
            ["apply", files.to_str().unwrap()].iter().chain(arguments).copied().collect();
        self.ringfence(&words)
    }

    /// Checks that the next run brings the node into its state, the one after it has nothing to do,
    /// and teardown leaves nothing.
    fn clean_up_after_an_interrupted_run(&self, untouched: &str) {
        let (stderr, status) = self.apply("node-1", &[]);
        assert_eq!(status, 0, "{stderr}");
        assert_eq!(self.apply("node-1", &[]), ("node-1: nothing to change\n".to_owned(), 0));
        assert_eq!(self.ringfence(&["teardown"]).1, 0);
        self.on("sysctl -qw net.ipv4.ip_forward=0");
        assert_eq!(self.state(), untouched);
    }

    /// Checks that apply fails with these words and leaves the node as it is.
    fn refuses(&self, files: &str, arguments: &[&str], expected: &str) {
        let before = self.state();
        let outcome = self.apply(files, arguments);
        assert_eq!(outcome, (error(expected), 1), "{files} {arguments:?}");
        assert_eq!(self.state(), before, "after {expected}");
    }
}

/// One error as the program prints it; what follows a line's end is the help.
fn error(text: &str) -> String {
    match text.split_once('\n') {
        Some((message, help)) => format!("error[{message}\n |\n = help: {help}\n\n1 error\n"),
        None => format!("error[{text}\n\n1 error\n"),
    }
}

/// What was done to node-1 before anything was applied, how it is undone, whose files are applied,
/// and what apply says.
const OBSTACLES: &[(&str, &str, &str, &str)] = &[
    (
        "true",
        "true",
        "node-2",
        "RF204]: this is not node `node-2`: no interface has its address 192.168.12.12\n\
         apply the directory of the node that this machine is",
    ),
    (
        "ip link set eth0 down; ip link set eth0 name eth7",
        "ip link set eth7 name eth0; ip link set eth0 up",
        "node-1",
        "RF204]: the uplink `eth0` of egress router `supplier` is not an interface of this node\n\
         correct `uplink.interface` of the node",
    ),
    (
        "ovs-vsctl add-br br0 -- set bridge br0 datapath_type=netdev",
        "ovs-vsctl del-br br0",
        "node-1",
        "RF206]: the bridge `br0` exists and is not ringfence's\n\
         choose another with --bridge, or take it over, flows and all, with --adopt",
    ),
    (
        "ovs-vsctl add-br brx -- set bridge brx datapath_type=netdev -- \
         add-port brx tun0 -- set interface tun0 type=internal",
        "ovs-vsctl del-br brx",
        "node-1",
        "RF206]: the port `tun0` of node-1 is on the bridge `brx`\n\
         remove it with `ovs-vsctl del-port brx tun0`, if nothing else needs it",
    ),
    (
        "ovs-vsctl add-br brx -- set bridge brx datapath_type=netdev -- \
         add-port brx vxlan0 -- set interface vxlan0 type=vxlan options:remote_ip=flow",
        "ovs-vsctl del-br brx",
        "node-1",
        "RF206]: the port `vxlan0` of node-1 is on the bridge `brx`\n\
         remove it with `ovs-vsctl del-port brx vxlan0`, if nothing else needs it",
    ),
    (
        // As OpenVPN has it.
        "ip link add tun0 type bridge && ip addr add 10.9.9.1/24 dev tun0",
        "ip link del tun0",
        "node-1",
        "RF206]: the interface `tun0` of the node exists and is not ringfence's\n\
         give the program that made it another name for it: ringfence needs this one",
    ),
    (
        "ip link add rf-0a277568ba88 type bridge",
        "ip link del rf-0a277568ba88",
        "node-1",
        "RF206]: the interface `rf-0a277568ba88` of pod shop/web-0 exists and is not ringfence's\n\
         remove it with `ip link del rf-0a277568ba88`, if nothing else needs it",
    ),
    (
        "ip netns add shop.web-0 && ip -n shop.web-0 link add eth0 type bridge",
        "ip netns del shop.web-0",
        "node-1",
        "RF206]: the namespace `shop.web-0` of pod shop/web-0 has an interface `eth0` of another \
         origin\nremove it, or name another namespace for the pod",
    ),
    (
        // A symbolic link to a container that has ended.
        "mkdir -p /run/netns; ln -s /proc/4194303/ns/net /run/netns/shop.web-0",
        "rm /run/netns/shop.web-0",
        "node-1",
        "RF206]: `/run/netns/shop.web-0` of pod shop/web-0 is no network namespace\n\
         remove it, or name another namespace for the pod",
    ),
    (
        "nft add table inet ringfence",
        "nft delete table inet ringfence",
        "node-1",
        "RF206]: the nft table inet ringfence exists and is not ringfence's\n\
         remove it with `nft delete table inet ringfence`, if nothing else needs it",
    ),
    (
        "mount --bind /dev/null /usr/bin/ovsdb-client",
        "umount /usr/bin/ovsdb-client",
        "node-1",
        "RF201]: `ovsdb-client` is not installed\n\
         on Debian: apt-get install openvswitch-common",
    ),
    (
        "mount --bind /dev/null /usr/sbin/ethtool",
        "umount /usr/sbin/ethtool",
        "node-1",
        "RF201]: `ethtool` is not installed\non Debian: apt-get install ethtool",
    ),
    (
        "pkill -x ovsdb-server; while pidof ovsdb-server >/dev/null; do sleep 0.05; done",
        "ovsdb-server /etc/openvswitch/conf.db --remote=punix:/run/openvswitch/db.sock --pidfile \
         --detach --no-chdir --log-file -vconsole:off; ovs-vsctl --timeout=20 list-br",
        "node-1",
        "RF205]: Open vSwitch's database does not answer: failed to connect to \
         \"unix:/var/run/openvswitch/db.sock\" (No such file or directory)\n\
         start Open vSwitch: systemctl start openvswitch-switch",
    ),
];

#[test]
fn what_is_in_the_way_is_named_before_anything_is_changed() {
    let node = Node::new();
    let untouched = node.state();
    for (make, undo, files, expected) in OBSTACLES {
        node.on(make);
        for arguments in [&["--check"][..], &[]] {
            node.refuses(files, arguments, expected);
        }
        node.on(undo);
        assert_eq!(node.state(), untouched, "`{undo}` doesn't undo `{make}`");
    }
    assert_eq!(node.apply("node-1", &[]), ("node-1: 22 changes applied\n".to_owned(), 0));
    assert_eq!(node.apply("node-1", &[]), ("node-1: nothing to change\n".to_owned(), 0));
}

#[test]
fn nothing_is_begun_where_the_state_cannot_be_kept() {
    let node = Node::new();
    let help = "check the free space and that the file system is writable, or use --state";
    let cases = [
        ("touch /run/ringfence", "rm /run/ringfence", "lock`: file exists"),
        ("ln -s /nowhere/at/all /run/ringfence", "rm /run/ringfence", "lock`: file exists"),
        (
            "mkdir /run/ringfence; mount -t tmpfs -o ro none /run/ringfence",
            "umount /run/ringfence; rmdir /run/ringfence",
            "lock`: read-only file system",
        ),
        (
            "mkdir /run/ringfence; mount -t tmpfs -o size=4k,mode=0700 none /run/ringfence; \
             head -c 8k /dev/zero >/run/ringfence/big 2>/dev/null || true",
            "umount /run/ringfence; rmdir /run/ringfence",
            "generations`: no space left on device",
        ),
        (
            "mkdir -p /run/ringfence/lock",
            "rmdir /run/ringfence/lock /run/ringfence",
            "lock`: is a directory",
        ),
        (
            "mkdir -p /run/ringfence/state.json/x",
            "rm -r /run/ringfence",
            "state.json`: is a directory",
        ),
    ];
    for (make, undo, reason) in cases {
        node.on(make);
        node.refuses(
            "node-1",
            &[],
            &format!("RF210]: cannot use `/run/ringfence/{reason}\n{help}"),
        );
        // A check keeps nothing.
        assert_eq!(node.apply("node-1", &["--check"]).1, 2);
        node.on(undo);
    }
    assert_eq!(node.on("ls /run/ringfence 2>&1 || true").lines().count(), 1);
}

#[test]
fn two_runs_do_not_meet() {
    let node = Node::new();
    node.on("mkdir /run/ringfence");
    let hold = "(flock /run/ringfence/lock sleep 600 & echo $! >/run/holder) >/dev/null 2>&1";
    node.on(&format!("{hold}; while flock -n /run/ringfence/lock true; do sleep 0.05; done"));
    let before = node.state();
    let expected = error(
        "RF207]: another run of ringfence is at work on this node\n\
         wait for it; it holds `/run/ringfence/lock`",
    );
    assert_eq!(node.apply("node-1", &[]), (expected.clone(), 4));
    assert_eq!(node.ringfence(&["teardown"]), (expected, 4));
    assert_eq!(node.state(), before);
    // Looking takes no lock.
    assert_eq!(node.apply("node-1", &["--check"]), ("node-1: 22 changes pending\n".to_owned(), 2));
    // The kernel lets go of it, however the other run ends.
    node.on("kill -9 $(cat /run/holder); pkill -9 -x sleep
         while ! flock -n /run/ringfence/lock true; do command sleep 0.05; done");
    assert_eq!(node.apply("node-1", &[]).1, 0);
}

#[test]
fn a_node_without_a_working_switch_is_not_taken_for_an_empty_one() {
    let node = Node::new();
    assert_eq!(node.apply("node-1", &[]).1, 0);
    // Without its database, ovs-vswitchd goes on and answers nobody.
    node.on("pkill -x ovsdb-server; while pidof ovsdb-server >/dev/null; do sleep 0.05; done");
    node.refuses(
        "node-1",
        &[],
        "RF205]: Open vSwitch's database does not answer: failed to connect to \
         \"unix:/var/run/openvswitch/db.sock\" (No such file or directory)\n\
         start Open vSwitch: systemctl start openvswitch-switch",
    );
    node.on(
        "ovsdb-server /etc/openvswitch/conf.db --remote=punix:/run/openvswitch/db.sock --pidfile \
         --detach --no-chdir --log-file -vconsole:off; ovs-vsctl --timeout=20 list-br; \
         pkill -9 -x ovs-vswitchd; while pidof ovs-vswitchd >/dev/null; do sleep 0.05; done",
    );
    // The kernel tells a moment later that nobody holds the bridges' interfaces any more.
    node.on(
        "while ip -o link show up | grep -E ' (tun0|br-phy): ' | grep -v NO-CARRIER; do sleep 0.05; done",
    );
    for arguments in [&["--check"][..], &[]] {
        node.refuses(
            "node-1",
            arguments,
            "RF205]: Open vSwitch does not answer for its bridge `br0`\n\
             start ovs-vswitchd, or see in its log why it can't open the bridge",
        );
    }
}

/// A program that fails while the node is read, when it does, and what is said of it.
const UNREADABLE: &[(&str, &str, &str)] = &[
    (
        "nft",
        "case $* in 'list chains') kill -9 $$;; esac",
        "RF208]: `nft list chains` was killed: it printed no reason",
    ),
    (
        "nft",
        "echo 'Operation not permitted (you must be root)' >&2; exit 1",
        "RF208]: `nft list chains` failed with status 1: Operation not permitted (you must be root)",
    ),
    (
        "ovsdb-client",
        "echo '[1, 2'; exit 0",
        "RF208]: Open vSwitch's database answers in an unknown form",
    ),
    (
        "ovsdb-client",
        "yes '[' | head -1000000 | tr -d '\\n'; exit 0",
        "RF208]: Open vSwitch's database answers in an unknown form",
    ),
    (
        "ovsdb-client",
        "printf '[{},{\"rows\":7},{}]\\377'; exit 0",
        "RF208]: Open vSwitch's database answers in an unknown form",
    ),
];

/// A program that fails while the node is changed, when it does, and what is said of it.
const FAILURES: &[(&str, &str, &str)] = &[
    (
        "sysctl",
        "echo 'permission denied on key' >&2; exit 255",
        "RF208]: `sysctl -qw net.ipv4.ip_forward=1` failed with status 255: permission denied on \
         key",
    ),
    (
        "nft",
        "case $* in '-f -') echo 'Error: Could not process rule' >&2; exit 1;; esac",
        "RF208]: `nft -f -` failed with status 1: Error: Could not process rule",
    ),
    (
        "ip",
        "case $* in '-n shop.web-0 -batch -') kill -9 $$;; esac",
        "RF208]: `ip -n shop.web-0 -batch -` was killed: it printed no reason",
    ),
    (
        "ethtool",
        "exit 81",
        "RF208]: `ethtool -K rf-0aca381595cf tx off` failed with status 81: it printed no reason",
    ),
    (
        "ethtool",
        "case $* in *tun0*) exit 81;; esac",
        "RF208]: `ethtool -K tun0 tx off` failed with status 81: it printed no reason",
    ),
    (
        // What is printed is cut.
        "ovs-vsctl",
        "case $* in *tun0*) head -c 2000 /dev/zero | tr '\\0' x >&2; exit 1;; esac",
        "RF208]: `ovs-vsctl --timeout=60 -- --may-exist add-br br0 -- set Bridge …` failed with \
         status 1: {600 x}",
    ),
    (
        // And does not reach the terminal as it is.
        "ovs-ofctl",
        "case $* in *bundle*) printf '\\033[2Jbad\\377' >&2; exit 1;; esac",
        "RF208]: `ovs-ofctl -O OpenFlow14 --bundle add-flows br0 -` failed with status 1: \
         \u{241b}[2Jbad\u{fffd}",
    ),
    (
        "nft",
        "case $* in '-f -') test -e /run/once && exit 9; touch /run/once;; esac",
        "RF208]: `ip netns exec router_supplier nft -f -` failed with status 9: it printed no \
         reason",
    ),
];

#[test]
fn a_node_that_cannot_be_read_is_not_changed() {
    let node = Node::new();
    for (program, script, expected) in UNREADABLE {
        node.replace(program, script);
        for arguments in [&["--check"][..], &[]] {
            node.refuses("node-1", arguments, expected);
        }
        node.restore(program);
    }
}

#[test]
fn a_command_that_fails_is_named_and_the_next_run_does_the_rest() {
    let node = Node::new();
    let untouched = node.state();
    for (program, script, expected) in FAILURES {
        node.replace(program, script);
        let expected = expected.replace("{600 x}", &"x".repeat(600));
        assert_eq!(node.apply("node-1", &[]), (error(&expected), 1), "{program} {script}");
        node.restore(program);
        assert!(node.on("grep -v applied /run/ringfence/state.json").contains("\"pending\": \""));
        node.clean_up_after_an_interrupted_run(&untouched);
    }
}

/// Where an interrupted run of `ip` stops: its arguments, and the lines that it gets done.
const INTERRUPTIONS: &[(&str, usize)] = &[
    ("-batch -", 0),
    ("-batch -", 1),
    ("-batch -", 2),
    ("-batch -", 3),
    ("-batch -", 4),
    ("-batch -", 5),
    ("-n router_supplier -batch -", 0),
    ("-n router_supplier -batch -", 1),
    ("-n router_supplier -batch -", 3),
    ("-n shop.web-0 -batch -", 2),
];

#[test]
fn what_was_half_made_is_finished_or_removed() {
    let node = Node::new();
    let untouched = node.state();
    for (command, lines) in INTERRUPTIONS {
        for again in [false, true] {
            let stop = "echo stopped >&2; exit 1";
            let script =
                format!("case $* in '{command}') head -{lines} | /run/real/ip $*; {stop};; esac");
            node.replace("ip", &script);
            let expected = format!("RF208]: `ip {command}` failed with status 1: stopped");
            assert_eq!(node.apply("node-1", &[]), (error(&expected), 1), "{command} {lines}");
            node.restore("ip");
            if again {
                node.clean_up_after_an_interrupted_run(&untouched);
            } else {
                assert_eq!(node.ringfence(&["teardown"]).1, 0);
                node.on("sysctl -qw net.ipv4.ip_forward=0");
                assert_eq!(node.state(), untouched, "teardown after {command} {lines}");
            }
        }
    }
}

#[test]
fn what_cannot_be_seen_is_done_again_after_an_interrupted_run() {
    // With incomplete checksums, a userspace datapath delivers what the receiver throws away.
    let node = Node::new();
    for when in ["*", "*tun0*"] {
        node.replace("ethtool", &format!("case $* in {when}) exit 81;; esac"));
        assert_eq!(node.apply("node-1", &[]).1, 1);
        node.restore("ethtool");
        assert_eq!(node.live.apply_all().len(), 2);
        let summary = node.live.lab.probe(lab::plan(node.live.lab.model())).unwrap();
        assert_eq!(summary.counts(), (24, 0), "{}", summary.table());
        assert_eq!(node.ringfence(&["teardown"]).1, 0);
    }
}

/// A program that does nothing, when it does, and the first difference that is found.
const SWALLOWED: &[(&str, &str, &str)] = &[
    ("sysctl", "exit 0", "~ sysctl net.ipv4.ip_forward: 0 to 1"),
    ("nft", "case $* in '-f -') exit 0;; esac", "+ ruleset node: not loaded"),
    (
        "ip",
        "case $* in '-n shop.web-0 -batch -') exit 0;; esac",
        "~ link rf-0a277568ba88: address, state, route of pod shop/web-0",
    ),
    (
        "ip",
        "case $* in 'netns exec router_supplier nft -f'*) exit 0;; esac",
        "+ ruleset router supplier: not loaded",
    ),
    (
        "ovs-ofctl",
        "case $* in *bundle*) cat >/dev/null; exit 0;; esac",
        "+ flows cluster: 45 added",
    ),
    (
        "ovs-ofctl",
        "case $* in *bundle*) grep -v in_port=264 | /run/real/ovs-ofctl \"$@\"; exit;; esac",
        "+ flows pod shop/web-0: 2 added",
    ),
    (
        // Another program is at it.
        "ovs-ofctl",
        "case $* in *bundle*) cat >/run/bundle; /run/real/ovs-ofctl \"$@\" </run/bundle; \
         flow=cookie=7,table=80,priority=9,actions=drop; \
         exec /run/real/ovs-ofctl -O OpenFlow14 add-flow br0 $flow;; esac",
        "- flows cookie 0x7: 1 removed",
    ),
];

#[test]
fn a_change_without_effect_is_found_out() {
    let node = Node::new();
    let untouched = node.state();
    for (program, script, difference) in SWALLOWED {
        node.replace(program, script);
        let expected = format!(
            "RF209]: the node still differs after 3 attempts: {difference}\nsomething else changes \
             it at the same time, or the kernel or Open vSwitch refuses"
        );
        assert_eq!(node.apply("node-1", &[]), (error(&expected), 1), "{program} {script}");
        node.restore(program);
        node.clean_up_after_an_interrupted_run(&untouched);
    }
}

/// What is done to the state file. What can't be read stops every run, until it is put aside.
const STATES: &[&str] = &[
    "head -c 100M /dev/zero | tr '\\0' '[' >state.json",
    "head -c 1M /dev/urandom >state.json",
    "truncate -s 0 state.json",
    "truncate -s 50 state.json",
    "sed -i 's/\"version\": 2/\"version\": 3/' state.json",
    "sed -i 's/\"version\"/\"Version\"/' state.json",
    "rm state.json",
];

#[test]
fn a_state_that_is_put_aside_costs_a_reload_of_the_rulesets() {
    let node = Node::new();
    assert_eq!(node.apply("node-1", &[]).1, 0);
    let good = node.state();
    for command in STATES {
        node.on(&format!("cd /run/ringfence; {command}"));
        if !command.starts_with("rm ") {
            let (said, status) = node.apply("node-1", &[]);
            let refused = said.contains("RF210]: cannot use `/run/ringfence/state.json`: it ");
            assert!(refused && status == 1, "{command}: {said}");
            node.on("cd /run/ringfence; mv state.json /run/state.unreadable");
        }
        let expected = ("node-1: 2 changes applied\n".to_owned(), 0);
        assert_eq!(node.apply("node-1", &[]), expected, "{command}");
        assert_eq!(node.state(), good);
    }
}

/// Runs the lab of the network with a shell script in the place of a program; the real one is at
/// `$REAL`. Returns standard output, standard error and the exit status.
fn lab_run(program: &str, script: &str) -> (String, String, i32) {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir(at("desired")).unwrap();
    fs::write(at("desired/network.yaml"), NETWORK).unwrap();
    let script = format!("#!/bin/sh\nREAL={}\n{script}\nexec $REAL \"$@\"\n", at(program));
    fs::write(at("fake"), script).unwrap();
    let run = format!(
        "real=$(readlink -f $(command -v {program})); cp $real {}; chmod +x {}; \
         mount --bind {} $real; exec {} lab run {}",
        at(program),
        at("fake"),
        at("fake"),
        crate::support::PROGRAM,
        at("desired"),
    );
    let run = duct::cmd!("unshare", "--mount", "sh", "-c", run);
    let run = run.stdout_capture().stderr_capture().unchecked().run().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(run.stdout), text(run.stderr), run.status.code().unwrap())
}

#[test]
fn a_lab_that_differs_says_which_probes() {
    // A firewall in one pod, of which nobody knows.
    let script = "\
if [ \"$2\" = eth0 ] && [ \"$(ip netns identify $$)\" = shop.web-0 ]; then
  nft add table inet theirs
  nft add chain inet theirs c '{type filter hook input priority 0; policy drop;}'
fi";
    let (stdout, stderr, status) = lab_run("ethtool", script);
    let wrong: Vec<&str> = stdout.lines().filter(|line| line.contains("WRONG")).collect();
    let expected = "shop/vm-0 to shop/web-0, same node                       answered to \
                    10.128.1.60                          dropped                                          WRONG: both have VNID 14643950";
    assert_eq!(wrong, [expected], "{stdout}");
    assert_eq!(
        (stderr.as_str(), status),
        (
            "bringing up the lab\nsending packets\nerror[RF231]: 1 of 24 probes did not do what the \
             desired state says\n\n1 error\n",
            1
        )
    );
}

#[test]
fn a_lab_that_cannot_be_set_up_says_why() {
    let cases = [
        (
            "ovsdb-server",
            "echo 'no space left' >&2; exit 1",
            "the lab could not be set up: a machine ended early: no space left",
        ),
        (
            "nft",
            "case $* in '-f -') echo 'no such chain' >&2; exit 1;; esac",
            "`apply` failed on node-1: error[RF208]: `nft -f -` failed with status 1: no such \
             chain\n              \n              1 error",
        ),
    ];
    for (program, script, expected) in cases {
        let run = lab_run(program, script);
        let stderr = format!("bringing up the lab\nerror[RF230]: {expected}\n\n1 error\n");
        assert_eq!(run, (String::new(), stderr, 1));
    }
    let directory = root().join("examples/quickstart");
    let run =
        duct::cmd!("unshare", "--user", "--", crate::support::PROGRAM, "lab", "run", directory);
    let run = run.stdout_capture().stderr_capture().unchecked().run().unwrap();
    let expected = error("RF200]: a lab must run as root\nrun it as root, or with sudo");
    assert_eq!(String::from_utf8_lossy(&run.stderr), format!("bringing up the lab\n{expected}"));
}
