//! Signatures of manifests, as `ssh-keygen -Y sign -n ringfence` makes them (OpenSSH,
//! PROTOCOL.sshsig). A node that has a file of pinned keys takes nothing unsigned.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use ssh_key::{AuthorizedKeys, HashAlg, PublicKey, SshSig};

use crate::artifact::layout::SIGNATURE;
use crate::diagnostic::{Code, Diagnostic, quoted, reason};

/// Where the pinned keys are by default; without this file, signatures are not looked at.
pub const SIGNERS: &str = "/etc/ringfence/signers";

/// What a signature must be for, so that one made for another purpose is worth nothing here.
const NAMESPACE: &str = "ringfence";
/// The most bytes of the file of keys.
const MAX_BYTES: u64 = 1 << 20;

/// The keys that a node takes signatures of.
#[derive(Debug)]
pub(super) struct Signers {
    path: PathBuf,
    keys: Vec<PublicKey>,
}

impl Signers {
    /// Reads a file of public keys, one a line, as in `authorized_keys` of OpenSSH.
    ///
    /// `None` where no file was asked for and the default one is not there: RF219 where one was.
    pub(super) fn read(path: Option<&Path>) -> Result<Option<Self>, Diagnostic> {
        let default = Path::new(SIGNERS);
        let at = path.unwrap_or(default);
        let unusable = |why: &str| {
            let message = format!("cannot use the keys in `{}`: {why}", at.display());
            Diagnostic::new(Code::SignersUnusable, message).help(
                "it has one public key a line, such as `ssh-ed25519 AAAA… name`, and belongs to \
                 root alone",
            )
        };
        let text = match read(at) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_none() => {
                return Ok(None);
            }
            Err(error) => return Err(unusable(&reason(&error))),
        };
        let mut keys = Vec::new();
        for entry in AuthorizedKeys::new(&text) {
            let entry = entry.map_err(|error| unusable(&error.to_string()))?;
            if !entry.config_opts().is_empty() {
                let options = quoted(entry.config_opts().as_str());
                return Err(unusable(&format!("the options {options} mean nothing here")));
            }
            keys.push(entry.public_key().clone());
        }
        if keys.is_empty() {
            return Err(unusable("it has no key, so nothing could be applied"));
        }
        Ok(Some(Self { path: at.to_owned(), keys }))
    }

    /// RF218: the manifest is signed by one of the keys. `signature` is `None` where there is no
    /// such file.
    pub(super) fn verify(
        &self,
        manifest: &[u8],
        signature: Option<&[u8]>,
    ) -> Result<(), Diagnostic> {
        let refused = |why: &str| {
            let path = self.path.display();
            Diagnostic::new(Code::NotSigned, format!("the manifest {why}")).help(format!(
                "this node takes only what a key in `{path}` has signed: `ssh-keygen -Y sign -n \
                 {NAMESPACE} -f KEY manifest.json`, after each compile"
            ))
        };
        let Some(signature) = signature else {
            return Err(refused(&format!("is not signed: there is no `{SIGNATURE}`")));
        };
        let signature = SshSig::from_pem(signature)
            .map_err(|_| refused(&format!("is not signed: `{SIGNATURE}` is no SSH signature")))?;
        let Some(key) = self.keys.iter().find(|key| key.key_data() == signature.public_key())
        else {
            let who = signature.public_key().fingerprint(HashAlg::Sha256);
            return Err(refused(&format!("is signed by {who}, which is not a trusted key")));
        };
        key.verify(NAMESPACE, manifest, &signature).map_err(|error| match error {
            ssh_key::Error::Namespace => {
                let namespace = quoted(signature.namespace());
                refused(&format!("is signed for another purpose, {namespace}"))
            }
            ssh_key::Error::AlgorithmUnsupported { .. } | ssh_key::Error::AlgorithmUnknown => {
                refused("is signed by a kind of key other than Ed25519 and ECDSA P-256")
            }
            _ => refused("is not what was signed"),
        })
    }
}

/// The text of a file that nobody but its owner, root or whoever runs this, can change.
fn read(path: &Path) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    let owners = [0, rustix::process::geteuid().as_raw()];
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if !owners.contains(&metadata.uid()) || metadata.mode() & 0o022 != 0 {
        return Err(io::Error::other("others than root can change it"));
    }
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}
