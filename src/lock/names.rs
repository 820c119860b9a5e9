//! The addresses of the names in egress policies: what the lock file has, and what an answer
//! changes in it.
//!
//! Nothing here asks anybody or reads a clock: `dns` asks, and the command line says what time it
//! is. A name that stands in a rule and has no address is an error, so that a rule for it never
//! vanishes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::diagnostic::{Code, Diagnostic, Place, Report, counted};
use crate::intent::{Addresses, Cluster, EgressRule, Intent, Target};
use crate::lock::dns::Answer;
use crate::lock::{LastSeen, Lock, NameAddress};
use crate::resolve::{covered_by, special_ranges};
use crate::value::{DnsName, Timestamp, humanize};

/// The most addresses of a name: every one is a flow for each of its rules.
const MAX_ADDRESSES: usize = 256;
/// How much a machine's clock may be behind that of the one that resolved, in seconds.
const CLOCKS_DIFFER: u64 = 3_600;
const RESOLVE: &str = "run `ringfence resolve` on the same paths, and commit the lock file";

/// The addresses of a lock file, by name.
#[must_use]
pub fn addresses(lock: &Lock) -> Addresses {
    let mut names = Addresses::new();
    for NameAddress { name, address } in lock.resolved_names.keys() {
        names.entry(name.clone()).or_default().push((*address).into());
    }
    names
}

/// RF152, RF156 and RF077: every rule has addresses, outside of the cluster, that no earlier one
/// takes.
#[must_use]
pub fn check(intent: &Intent, lock: &Lock) -> Report {
    let mut report = Report::new();
    let addresses = addresses(lock);
    for (name, rules) in intent.named_rules() {
        let found = addresses.get(name).map_or(&[][..], Vec::as_slice);
        for rule in rules {
            if found.is_empty() {
                let message = format!("the addresses of {name} are not known yet");
                report.push(
                    Diagnostic::new(Code::NameUnresolved, message).at(rule.place).help(RESOLVE),
                );
            } else if let Some(why) =
                found.iter().find_map(|address| unusable(address.addr(), &intent.cluster))
            {
                report.push(unusable_address(name, &why).at(rule.place));
            }
        }
    }
    for policy in intent.policies() {
        for (number, rule) in policy.rules.iter().enumerate() {
            if let Some(covering) =
                policy.rules[..number].iter().find(|earlier| covered(rule, earlier, &addresses))
            {
                report.push(covered_by(rule, covering));
            }
        }
    }
    report
}

/// Whether an earlier rule takes all that this one is about, by the addresses of their names.
/// Names that share servers are nothing unusual: they only count where the rules disagree.
fn covered(rule: &EgressRule, earlier: &EgressRule, addresses: &Addresses) -> bool {
    let names = [&rule.to, &earlier.to].map(|to| matches!(to, Target::Name(_)));
    names.contains(&true)
        && !earlier.covers(rule, &Addresses::new())
        && (names != [true, true] || rule.verdict != earlier.verdict)
        && earlier.covers(rule, addresses)
}

/// Why an address can't be one of a host outside.
fn unusable(address: Ipv4Addr, cluster: &Cluster) -> Option<String> {
    if let Some(network) = cluster.networks().find(|network| network.contains(&address)) {
        return Some(format!(
            "{address}, in the cluster network {network}, which no egress policy is about"
        ));
    }
    let mut special = special_ranges().into_iter();
    let (what, network) = special.find(|(_, network)| network.contains(&address))?;
    Some(format!("{address}, in {what} {network}"))
}

fn unusable_address(name: &DnsName, why: &str) -> Diagnostic {
    Diagnostic::new(Code::NameAddress, format!("{name} has the address {why}")).help(
        "ask the operator of the name or of the name server, who may block it; or write the rule \
         for a `cidr`",
    )
}

/// When a name was resolved last: the latest of its addresses.
fn resolved(lock: &Lock, name: &DnsName) -> Option<Timestamp> {
    entries(lock, name).map(|(_, sighting)| sighting.seen).max()
}

fn entries<'a>(
    lock: &'a Lock,
    name: &DnsName,
) -> impl Iterator<Item = (Ipv4Addr, LastSeen)> + use<'a> {
    let first = NameAddress { name: name.clone(), address: Ipv4Addr::UNSPECIFIED };
    let last = NameAddress { name: name.clone(), address: Ipv4Addr::BROADCAST };
    lock.resolved_names.range(first..=last).map(|(key, sighting)| (key.address, *sighting))
}

/// How old the addresses are that a compilation uses, in words: `3 names, the oldest resolved 2h
/// ago`. `None` where it uses none.
#[must_use]
pub fn oldest(intent: &Intent, lock: &Lock, now: Timestamp) -> Option<String> {
    let names = intent.named_rules();
    let oldest = names.keys().filter_map(|name| resolved(lock, name)).min()?;
    let which = if names.len() == 1 { "" } else { "the oldest " };
    Some(format!(
        "{}, {which}resolved {} ago",
        counted(names.len(), "name"),
        humanize(oldest.age_at(now))
    ))
}

/// RF155: addresses that are used are young enough.
#[must_use]
pub fn check_age(intent: &Intent, lock: &Lock, now: Timestamp) -> Report {
    let mut report = Report::new();
    let max_age = intent.cluster.dns.max_age;
    for (name, rules) in intent.named_rules() {
        let (Some(seen), Some(rule)) = (resolved(lock, name), rules.first()) else { continue };
        let message = if seen.is_older(max_age, now) {
            format!(
                "{name} was resolved {} ago, and addresses last {max_age}",
                humanize(seen.age_at(now))
            )
        } else if now.age_at(seen) > CLOCKS_DIFFER {
            format!("{name} was resolved at {seen}, which is still to come")
        } else {
            continue;
        };
        report.push(Diagnostic::new(Code::NamesTooOld, message).at(rule.place).help(RESOLVE));
    }
    report
}

/// What the answers of name servers make of a lock file.
#[derive(Debug)]
pub struct Update {
    /// The lock file with them. Whatever else it has is as it was.
    pub lock: Lock,
    /// What can't be used of the answers.
    pub report: Report,
    /// What else the nodes would get, a line each: `+ www.example.com 203.0.113.7`.
    pub changes: Vec<String>,
    /// What is the same but should be confirmed, a line each.
    pub ageing: Vec<String>,
}

/// Puts answers for all names of an intent into a lock file. Where a name has no answer, its
/// addresses stay as long as they last.
#[must_use]
pub fn update(
    intent: &Intent,
    old: &Lock,
    answers: &BTreeMap<DnsName, Result<Answer, String>>,
    now: Timestamp,
) -> Update {
    let names = intent.named_rules();
    let mut lock = old.clone();
    lock.resolved_names.clear();
    let report = Report::new();
    let mut update = Update { lock, report, changes: Vec::new(), ageing: Vec::new() };
    for (name, rules) in &names {
        let place = rules[0].place;
        let was: BTreeMap<Ipv4Addr, LastSeen> = entries(old, name).collect();
        let answer = answers.get(*name).cloned();
        let answer = answer.unwrap_or_else(|| Err("it was not asked for".to_owned()));
        let usable = answer.map_err(|why| not_resolved(name, &why)).and_then(|answer| {
            let mut addresses = answer.addresses.iter();
            match addresses.find_map(|address| unusable(*address, &intent.cluster)) {
                Some(why) => Err(unusable_address(name, &why)),
                None => Ok(answer),
            }
        });
        let is = match usable {
            Ok(answer) => update.merge(intent, name, &was, &answer, now),
            Err(why) => {
                update.keep(intent, name, &was, why, place, now);
                was.clone()
            }
        };
        if is.len() > MAX_ADDRESSES {
            let message = format!("{name} has {}", counted(is.len(), "address"));
            update.report.push(Diagnostic::new(Code::NameManyAddresses, message).at(place).help(
                format!(
                    "{MAX_ADDRESSES} is the most; shorten `cluster.dns.keep`, or write the rule \
                     for the networks behind the name"
                ),
            ));
        }
        for address in is.keys().filter(|address| !was.contains_key(address)) {
            update.changes.push(format!("+ {name} {address}"));
        }
        for (address, sighting) in was.iter().filter(|(address, _)| !is.contains_key(address)) {
            let ago = humanize(sighting.seen.age_at(now));
            update.changes.push(format!("- {name} {address}, last seen {ago} ago"));
        }
        for (address, sighting) in is {
            let name = (*name).clone();
            update.lock.resolved_names.insert(NameAddress { name, address }, sighting);
        }
    }
    let unused: BTreeSet<&DnsName> = old.resolved_names.keys().map(|entry| &entry.name).collect();
    for name in unused.into_iter().filter(|name| !names.contains_key(name)) {
        update.changes.push(format!("- {name}, which no rule is for any more"));
    }
    update
}

fn not_resolved(name: &DnsName, why: &str) -> Diagnostic {
    Diagnostic::new(Code::NameFails, format!("{name} was not resolved: {why}"))
        .help("correct the name, or ask other name servers with `--server`")
}

impl Update {
    /// The addresses of a name that has an answer: those in it, and those seen not long before.
    fn merge(
        &mut self,
        intent: &Intent,
        name: &DnsName,
        was: &BTreeMap<Ipv4Addr, LastSeen>,
        answer: &Answer,
        now: Timestamp,
    ) -> BTreeMap<Ipv4Addr, LastSeen> {
        let dns = &intent.cluster.dns;
        let mut is: BTreeMap<Ipv4Addr, LastSeen> = was
            .iter()
            .filter(|(_, sighting)| !sighting.seen.is_older(dns.keep, now))
            // What another clock put into the future would never leave.
            .map(|(address, sighting)| {
                (*address, LastSeen { seen: sighting.seen.min(now), ttl: sighting.ttl })
            })
            .collect();
        // In a pool that rotates, what is seen must be written before it is given up.
        let rotates = is.keys().any(|address| !answer.addresses.contains(address));
        let limit = if rotates { dns.keep.min(dns.max_age) } else { dns.max_age };
        let seen = answer.addresses.iter().filter_map(|address| was.get(address)).map(|s| s.seen);
        if let Some(oldest) = seen.min().filter(|seen| seen.age_at(now) > limit.seconds() / 2) {
            let ago = humanize(oldest.age_at(now));
            self.ageing.push(format!("= {name}, resolved {ago} ago, confirmed at half of {limit}"));
        }
        let sighting = LastSeen { seen: now, ttl: answer.ttl };
        is.extend(answer.addresses.iter().map(|address| (*address, sighting)));
        is
    }

    /// RF153, RF154 and RF156: a name without an answer keeps the addresses that it has, as long
    /// as they last.
    fn keep(
        &mut self,
        intent: &Intent,
        name: &DnsName,
        was: &BTreeMap<Ipv4Addr, LastSeen>,
        why: Diagnostic,
        place: Place,
        now: Timestamp,
    ) {
        let last = was.values().map(|sighting| sighting.seen).max();
        let max_age = intent.cluster.dns.max_age;
        let Some(last) = last.filter(|seen| !seen.is_older(max_age, now)) else {
            self.report.push(why.at(place));
            return;
        };
        let message =
            format!("{}; its addresses of {} ago stay", why.message, humanize(last.age_at(now)));
        self.report.push(
            Diagnostic::new(Code::NameKept, message)
                .at(place)
                .help(format!("they last {max_age}; {name} is an error afterwards")),
        );
    }
}
