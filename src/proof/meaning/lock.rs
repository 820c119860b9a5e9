//! The text of the lock file, as far as meanings need it.

use std::collections::BTreeMap;

/// Sections, each with its entries by key.
#[derive(Debug, Default)]
pub struct Lock<'t> {
    sections: BTreeMap<&'t str, BTreeMap<&'t str, &'t str>>,
}

impl<'t> Lock<'t> {
    /// Reads the text: sections of lines `  key: value`.
    pub fn read(text: &'t str) -> Result<Self, String> {
        let mut lock = Self::default();
        let mut section = "";
        for (number, line) in (1..).zip(text.lines()) {
            if line.is_empty() || line.starts_with('#') || line.starts_with("version:") {
                continue;
            }
            let refused = || format!("the lock file has no meaning in line {number}");
            if let Some(entry) = line.strip_prefix("  ") {
                let (key, value) = entry.split_once(": ").ok_or_else(refused)?;
                let entries = lock.sections.get_mut(section).ok_or_else(refused)?;
                if entries.insert(plain(key), plain(value)).is_some() {
                    return Err(format!("the lock file has an entry twice in line {number}"));
                }
            } else {
                section = line.strip_suffix(':').ok_or_else(refused)?;
                lock.sections.entry(section).or_default();
            }
        }
        Ok(lock)
    }

    /// The value of a key.
    pub fn get(&self, section: &str, key: &str) -> Result<&'t str, String> {
        let found = self.sections.get(section).and_then(|entries| entries.get(key).copied());
        found.ok_or_else(|| format!("the lock file has no `{key}` in `{section}`"))
    }

    /// The entries of a section.
    pub fn entries(&self, section: &str) -> impl Iterator<Item = (&'t str, &'t str)> {
        self.sections.get(section).into_iter().flatten().map(|(key, value)| (*key, *value))
    }

    /// Node, address, Ethernet address and port of a pod or egress router.
    pub fn port_binding(&self, section: &str, key: &str) -> Result<Binding<'t>, String> {
        let text = self.get(section, key)?;
        let refused = || format!("the lock file has `{text}` for `{key}`");
        let words: Vec<&str> = text.split(' ').collect();
        let [node, address, mac, port] = words[..] else { return Err(refused()) };
        let address: std::net::Ipv4Addr = address.parse().map_err(|_| refused())?;
        let mut cursor = crate::proof::read::cursor::Cursor(mac.as_bytes());
        let mac = cursor.mac().map_err(|_| refused())?;
        let port = port.parse().map_err(|_| refused())?;
        Ok(Binding { node, address: u64::from(u32::from(address)), mac, port })
    }
}

/// Where a pod or egress router is.
#[derive(Clone, Copy, Debug)]
pub struct Binding<'t> {
    /// Its node.
    pub node: &'t str,
    /// Its address.
    pub address: u64,
    /// Its Ethernet address.
    pub mac: u64,
    /// Its port.
    pub port: u64,
}

fn plain(text: &str) -> &str {
    text.trim_matches(['\'', '"'])
}
