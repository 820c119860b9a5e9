//! The generation in what is loaded, and the objects behind what was loaded.
//!
//! The files don't have the generation, which is their digest, so that a change of one line stays
//! a change of one line. Whoever loads them adds it.

use std::collections::BTreeMap;

use super::host::TABLE_MARK;
use crate::dataplane::openflow::{Action, Flow, Match};
use crate::dataplane::origin::{Cookie, ObjectRef};
use crate::pipeline::Table;

/// The text of the flows with a last one that tells the generation; no packet comes to its table.
#[must_use]
pub fn with_note(flows: &str, generation: &blake3::Hash) -> String {
    let subject =
        ObjectRef { cookie: Cookie::of("cluster", "cluster"), name: "cluster".into(), place: None };
    let flow = Flow {
        table: Table::Generation,
        priority: 0,
        matches: Match::default(),
        actions: vec![Action::Note(*generation.as_bytes())],
        subject: &subject,
        also: Vec::new(),
    };
    let mut note = Vec::new();
    flow.write(&mut note);
    format!("{flows}{}\n", String::from_utf8_lossy(&note))
}

/// The text of a node's ruleset with the generation in a comment of each table.
#[must_use]
pub fn with_generation(ruleset: &[u8], generation: &str) -> Vec<u8> {
    let mark = format!("\tcomment \"{TABLE_MARK}\"\n").into_bytes();
    let comment = format!("\tcomment \"generation {generation}\"\n").into_bytes();
    let mut all = Vec::with_capacity(ruleset.len() + 256);
    let mut begins = false;
    for line in ruleset.split_inclusive(|byte| *byte == b'\n') {
        let own = begins && line == mark;
        all.extend_from_slice(if own { &comment } else { line });
        begins = line.starts_with(b"table ") && line.ends_with(b" {\n");
    }
    all
}

/// The objects that the flows stand for, by their cookies, as their comments name them.
#[must_use]
pub fn names(flows: &str) -> BTreeMap<Cookie, &str> {
    let mut names = BTreeMap::new();
    let mut last = "";
    for line in flows.lines() {
        let Some((digits, _)) = line.strip_prefix("cookie=").and_then(|l| l.split_once(',')) else {
            continue;
        };
        // Most flows stand beside others of their object.
        if digits == last {
            continue;
        }
        last = digits;
        let (Some(cookie), Some((_, name))) = (Cookie::parse(digits), line.rsplit_once(" # "))
        else {
            continue;
        };
        // Behind a bar stands what else the flow serves.
        names.insert(cookie, name.split(" | ").next().unwrap_or(name));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_table_of_a_ruleset_gets_the_generation_and_nothing_else_does() {
        let text = "table inet ringfence\ndelete table inet ringfence\n\ntable inet ringfence {\n\
                    \tcomment \"ringfence\"\n\n\tset a {\n\t\tcomment \"ringfence\"\n\t}\n}\n\n\
                    table arp ringfence {\n\tcomment \"ringfence\"\n}\n";
        let expected = "table inet ringfence\ndelete table inet ringfence\n\ntable inet ringfence \
                        {\n\tcomment \"generation 00ff\"\n\n\tset a {\n\t\tcomment \"ringfence\"\n\t}\n}\n\ntable arp \
                        ringfence {\n\tcomment \"generation 00ff\"\n}\n";
        assert_eq!(String::from_utf8(with_generation(text.as_bytes(), "00ff")).unwrap(), expected);
    }

    #[test]
    fn comments_name_the_objects_of_flows() {
        let text = "# table 0\ncookie=0x1, table=0 actions=drop # cluster\n\
                    cookie=0x2f, table=1 actions=drop # rule a: deny 0.0.0.0/0\n";
        let expected = [(0x1, "cluster"), (0x2f, "rule a: deny 0.0.0.0/0")];
        let found: Vec<(u64, &str)> =
            names(text).into_iter().map(|(cookie, name)| (cookie.get(), name)).collect();
        assert_eq!(found, expected);
    }
}
