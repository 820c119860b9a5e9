//! Signed manifests, with keys and signatures that the real `ssh-keygen` made.

use std::fs;
use std::path::{Path, PathBuf};

use crate::generations::{NEW, Node, OLD};
use crate::support::{Run, compiled, ringfence};

/// Keys, and a node's files that can be spoilt.
struct Desk {
    directory: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { directory: tempfile::tempdir().unwrap() };
        for (name, kind) in [("alice", "ed25519"), ("bob", "ecdsa"), ("mallory", "ed25519")] {
            let key = desk.path(name);
            let words = ["-q", "-t", kind, "-b", "256", "-N", "", "-C", name, "-f"];
            let words = words.into_iter().chain([key.to_str().unwrap()]);
            duct::cmd("ssh-keygen", words).stdin_null().run().unwrap();
        }
        let public = |name: &str| fs::read_to_string(desk.path(&format!("{name}.pub"))).unwrap();
        let signers = format!("# who may sign\n\n{}{}", public("alice"), public("bob"));
        fs::write(desk.path("signers"), signers).unwrap();
        let out = compiled("quickstart");
        duct::cmd!("cp", "-r", out.path().join("node-1"), desk.path("node-1")).run().unwrap();
        duct::cmd!("cp", "-r", out.path().join("node-2"), desk.path("node-2")).run().unwrap();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Signs a manifest for a purpose.
    fn sign(&self, key: &str, namespace: &str, manifest: &Path) {
        let signature = manifest.with_extension("json.sig");
        let _ = fs::remove_file(&signature);
        duct::cmd!(
            "ssh-keygen",
            "-q",
            "-Y",
            "sign",
            "-n",
            namespace,
            "-f",
            self.path(key),
            manifest
        )
        .stderr_null()
        .run()
        .unwrap();
        assert!(signature.exists());
    }

    fn apply(&self) -> Run {
        ringfence(
            self.directory.path(),
            &["apply", "node-1", "--check", "--signers", "signers", "--state", "state"],
        )
    }

    /// What is said of the files as they are.
    fn refusal(&self) -> String {
        let run = self.apply();
        assert_eq!((run.status, run.stdout.as_str()), (1, ""));
        run.stderr.lines().next().unwrap().to_owned()
    }
}

#[test]
fn only_what_a_pinned_key_signed_is_looked_at() {
    let desk = Desk::new();
    let manifest = desk.path("node-1/manifest.json");
    let signature = desk.path("node-1/manifest.json.sig");
    let refused = |why: &str| format!("error[RF218]: the manifest {why}");
    assert_eq!(
        desk.apply().stderr,
        "error[RF218]: the manifest is not signed: there is no `manifest.json.sig`\n |\n = help: \
         this node takes only what a key in `signers` has signed: `ssh-keygen -Y sign -n \
         ringfence -f KEY manifest.json`, after each compile\n\n1 error\n"
    );
    fs::write(&signature, "nonsense").unwrap();
    let expected = refused("is not signed: `manifest.json.sig` is no SSH signature");
    assert_eq!(desk.refusal(), expected);
    desk.sign("mallory", "ringfence", &manifest);
    let mallory = duct::cmd!("ssh-keygen", "-l", "-f", desk.path("mallory.pub")).read().unwrap();
    let mallory = mallory.split(' ').nth(1).unwrap();
    let expected = refused(&format!("is signed by {mallory}, which is not a trusted key"));
    assert_eq!(desk.refusal(), expected);
    desk.sign("alice", "git", &manifest);
    assert_eq!(desk.refusal(), refused("is signed for another purpose, `git`"));
    for signer in ["alice", "bob"] {
        desk.sign(signer, "ringfence", &manifest);
        // The files are taken, and this machine is not node-1.
        let run = desk.apply();
        assert!(!run.stderr.contains("RF218"), "{}", run.stderr);
    }
    // A signature of another manifest, though of a good key.
    let other = desk.path("node-2/manifest.json");
    let copy = desk.path("manifest.json");
    fs::copy(other, &copy).unwrap();
    desk.sign("alice", "ringfence", &copy);
    fs::copy(desk.path("manifest.json.sig"), &signature).unwrap();
    assert_eq!(desk.refusal(), refused("is not what was signed"));
    // Nothing is read of what isn't signed: not even that it is no JSON.
    desk.sign("alice", "ringfence", &manifest);
    fs::write(&manifest, "[[[").unwrap();
    assert_eq!(desk.refusal(), refused("is not what was signed"));
    // The signature covers every file by its digest.
    let out = compiled("quickstart");
    fs::copy(out.path().join("node-1/manifest.json"), &manifest).unwrap();
    fs::write(desk.path("node-1/flows.ofctl"), "priority=1,actions=normal\n").unwrap();
    let expected = "error[RF203]: `flows.ofctl` is not the file that the manifest names";
    assert_eq!(desk.refusal(), expected);
}

#[test]
fn a_broken_file_of_keys_is_not_passed_over() {
    let desk = Desk::new();
    let unusable = |why: &str| format!("error[RF219]: cannot use the keys in `signers`: {why}");
    let signers = desk.path("signers");
    let key = fs::read_to_string(desk.path("alice.pub")).unwrap();
    let texts = [
        (String::new(), "it has no key, so nothing could be applied"),
        ("ssh-ed25519 AAAA".to_owned(), "Base64 encoding error: invalid Base64 length"),
        (format!("cert-authority {key}"), "the options `cert-authority` mean nothing here"),
    ];
    for (text, why) in texts {
        fs::write(&signers, text).unwrap();
        assert_eq!(desk.refusal(), unusable(why));
    }
    fs::write(&signers, key).unwrap();
    duct::cmd!("chmod", "g+w", &signers).run().unwrap();
    assert_eq!(desk.refusal(), unusable("others than root can change it"));
    fs::remove_file(&signers).unwrap();
    assert_eq!(desk.refusal(), unusable("no such file or directory"));
    fs::create_dir(&signers).unwrap();
    assert_eq!(desk.refusal(), unusable("not a regular file"));
}

#[test]
fn a_node_that_pins_keys_takes_nothing_unsigned() {
    let desk = Desk::new();
    let node = Node::new();
    node.done(&["apply", OLD]);
    let keys = desk.path("signers").display().to_string();
    node.on(&format!(
        "mkdir -p /run/etc /run/work; mount -t overlay overlay -o \
         lowerdir=/etc,upperdir=/run/etc,workdir=/run/work /etc; mkdir /etc/ringfence; cp {keys} \
         /etc/ringfence/signers"
    ));
    let run = node.run(&["apply", NEW]);
    assert_eq!(run.status, 1);
    assert!(run.stderr.starts_with("error[RF218]: "), "{}", run.stderr);
    assert_eq!(node.on("test -e /run/ringfence/pending && echo pending; true"), "");
    desk.sign("bob", "ringfence", Path::new(&unsigned(&desk, &node)));
    let signature = desk.path("manifest.json.sig").display().to_string();
    node.on(&format!("cp {signature} {NEW}/"));
    node.done(&["apply", NEW]);
    // What this node has taken once it keeps where only root can write.
    node.done(&["rollback"]);
    node.done(&["apply", "--current"]);
}

/// A copy of the new generation's manifest.
fn unsigned(desk: &Desk, node: &Node) -> String {
    let copy = desk.path("manifest.json");
    fs::write(&copy, node.on(&format!("cat {NEW}/manifest.json"))).unwrap();
    copy.display().to_string()
}
