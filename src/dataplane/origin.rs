//! The objects that flows and rules stand for, and the cookies that name them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::diagnostic::{Place, Sources};

/// A stable 64-bit name of an object, carried by its flows as their cookie and by its nft rules
/// in their comments. `ringfence explain` leads from it to the object's file and line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cookie(u64);

impl Cookie {
    /// The bits that the objects of one project share, so that a mask finds all of its flows:
    /// `ovs-ofctl dump-flows br0 cookie=0x1f3a9c0000000000/0xffffff0000000000`.
    pub const GROUP: u64 = !0 << 40;

    /// The cookie of an object with a key such as `pod/shop/web-0` that belongs to another, such
    /// as `project/shop`, or to itself: the first bits of the one's BLAKE3 hash and the last of
    /// the other's.
    #[must_use]
    pub fn of(group: &str, key: &str) -> Self {
        Self(hash(group) & Self::GROUP | hash(key) & !Self::GROUP)
    }

    /// The cookie that stands for all of the group.
    #[must_use]
    pub fn group(self) -> Self {
        Self(self.0 & Self::GROUP)
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// The cookie that is printed so.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        u64::from_str_radix(text.strip_prefix("0x")?, 16).ok().map(Self)
    }
}

/// A number that follows from a text alone.
#[must_use]
pub(crate) fn hash(text: &str) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..8]);
    u64::from_be_bytes(bytes)
}

/// A name that follows from a text alone, and that no other text has, nor can be made to have: 128
/// bits of its BLAKE3 hash.
#[must_use]
pub(crate) fn digest(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..32].to_owned()
}

impl fmt::Display for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Serialize for Cookie {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cookie {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not a cookie"))
    }
}

/// An object that flows or rules stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRef {
    /// Its cookie.
    pub cookie: Cookie,
    /// What it is, in words: `pod shop/web-0`.
    pub name: Box<str>,
    /// Where it is defined; `None` where the desired state leaves it to its defaults.
    pub place: Option<Place>,
}

impl ObjectRef {
    /// The subject of this kind with a key that no other of the kind has, and the project that
    /// it belongs to.
    #[must_use]
    pub fn new(
        kind: &str,
        key: &str,
        name: &str,
        project: Option<&str>,
        place: Option<Place>,
    ) -> Self {
        let key = format!("{kind}/{key}");
        let group = project.map_or_else(|| key.clone(), |project| format!("project/{project}"));
        Self { cookie: Cookie::of(&group, &key), name: format!("{kind} {name}").into(), place }
    }

    /// `file:line:col`, as `places.json` has it.
    #[must_use]
    pub fn position(&self, sources: &Sources) -> String {
        self.place.map_or_else(|| "by default".to_owned(), |place| sources.position(place))
    }
}
