//! One interface comes into the place of another, with all that hangs on it.
//!
//! Everything is first made on the new interface, behind what the old one has, so that nothing is
//! changed by it yet, and whatever the kernel refuses is refused then. Only when all is there, the old
//! one loses its own, the last first: what is left of it can be made whole again in the same order.
//! So at every moment one of the two has everything, and the live state alone tells what is to do.
//!
//! What the kernel makes by itself comes and goes with the rest: link-local addresses, routes for
//! addresses, and what router advertisements bring.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use super::links::batch;
use crate::diagnostic::{Code, Diagnostic};
use crate::system::Command;
use crate::system::netlink::Network;
use crate::system::netlink::holdings::{Address, Holdings, Hop, Neighbour, Route, Rule};

/// The longest label of an address, as of an interface.
const LABEL: usize = 15;

/// What it takes.
#[derive(Debug, Default)]
pub(super) struct Handover {
    /// Makes on the new interface what the old one has.
    pub(super) copy: Vec<Command>,
    /// Moves what the kernel has only once, and what names the old interface.
    pub(super) switch: Vec<Command>,
    /// Takes from the old interface what the new one has.
    pub(super) clear: Vec<Command>,
    /// What moves, in words; `None` where nothing does.
    pub(super) told: Option<String>,
}

/// Lines for `ip -batch`; rules of IPv6 need a word before them.
#[derive(Debug, Default)]
struct Lines {
    all: Vec<String>,
    rules: Vec<String>,
}

impl Lines {
    fn of(&mut self, v6: bool) -> &mut Vec<String> {
        if v6 { &mut self.rules } else { &mut self.all }
    }

    fn commands(&self) -> Vec<Command> {
        let six = batch(None, &self.rules).map(|mut command| {
            command.arguments.insert(0, "-6".to_owned());
            command
        });
        six.into_iter().chain(batch(None, &self.all)).collect()
    }
}

/// Something that can't be moved.
struct Obstacle {
    what: String,
    why: String,
    help: String,
}

impl Obstacle {
    fn new(what: String, why: impl Into<String>, help: impl Into<String>) -> Self {
        Self { what, why: why.into(), help: help.into() }
    }
}

/// The two interfaces, and what is on them.
struct Move<'a> {
    from: &'a str,
    to: &'a str,
    source: u32,
    /// 0 where the new interface is yet to be made.
    target: u32,
    up: bool,
    names: BTreeMap<u32, &'a str>,
    holdings: &'a Holdings,
    obstacles: Vec<Obstacle>,
}

/// RF227: everything on one interface can be moved to another, and what it takes.
pub(super) fn plan(
    from: &str,
    to: &str,
    node: &Network,
    holdings: &Holdings,
) -> Result<Handover, Diagnostic> {
    let Some(link) = node.links.get(from) else { return Ok(Handover::default()) };
    let target = node.links.get(to).map_or(0, |link| link.index);
    let mut names: BTreeMap<u32, &str> =
        node.links.iter().map(|(name, link)| (link.index, name.as_str())).collect();
    names.insert(target, to);
    let (source, up) = (link.index, link.up);
    let mut all = Move { from, to, source, target, up, names, holdings, obstacles: Vec::new() };
    let handover = all.handover();
    let Some(Obstacle { what, why, help }) = all.obstacles.first() else { return Ok(handover) };
    let more = match all.obstacles.len() - 1 {
        0 => String::new(),
        number => format!("; and {number} more that can't"),
    };
    let message = format!("{what} of `{from}` can't be moved to `{to}`: {why}{more}");
    Err(Diagnostic::new(Code::NotMovable, message).help(help.clone()))
}

impl<'a> Move<'a> {
    fn handover(&mut self) -> Handover {
        let (mut copy, mut switch, mut clear) =
            (Lines::default(), Lines::default(), Lines::default());
        let holdings = self.holdings;
        let here = |address: &&Address| address.link == self.source && !address.learnt;
        let addresses: Vec<&Address> = holdings.addresses.iter().filter(here).collect();
        let rules = self.rules(&mut copy, &mut switch);
        let neighbours = self.neighbours(&mut copy, &mut switch);
        let mut lines = Vec::new();
        let mut gone = Vec::new();
        for address in &addresses {
            let (make, remove) = self.address(address);
            // The kernel tells the newest of IPv6 first, and of IPv4 last.
            if address.local.is_ipv6() {
                lines.splice(0..0, make);
                gone.push(remove);
            } else {
                lines.extend(make);
                gone.insert(0, remove);
            }
        }
        copy.all.splice(0..0, lines);
        let routes = self.routes(&addresses);
        self.four(&routes, &mut copy, &mut switch, &mut clear);
        self.six(&routes, &mut switch, &mut clear);
        clear.all.extend(gone);
        let parts = [("routes", !routes.is_empty()), ("rules", rules), ("neighbours", neighbours)];
        let told = self.told(&addresses, &parts);
        let [copy, switch, mut clear] = [copy, switch, clear].map(|lines| lines.commands());
        // What goes by itself meanwhile is gone: the next look tells what is left.
        for command in &mut clear {
            command.removes = true;
        }
        Handover { copy, switch, clear, told }
    }

    /// What moves, in words: the addresses, or else what there is of other things.
    fn told(&self, addresses: &[&Address], parts: &[(&str, bool)]) -> Option<String> {
        let from = self.from;
        if let [first, rest @ ..] = addresses {
            let first = first.text();
            return Some(match rest.len() {
                0 => format!("{first} moves here from {from}"),
                more => format!("{first} and {more} more move here from {from}"),
            });
        }
        let parts: Vec<&str> = parts.iter().filter(|part| part.1).map(|part| part.0).collect();
        (!parts.is_empty()).then(|| format!("{} move here from {from}", parts.join(", ")))
    }

    fn refuse(&mut self, what: String, why: impl Into<String>, help: impl Into<String>) {
        self.obstacles.push(Obstacle::new(what, why, help));
    }

    /// The lines that make an address on the new interface, and the one that takes it from the old.
    fn address(&mut self, address: &Address) -> (Vec<String>, String) {
        let Address { local, peer, length, label, words, nodad, .. } = address;
        let what = format!("the address {}", address.text());
        let (from, to) = (self.from, self.to);
        if let Some(unknown) = &address.unknown {
            let help = format!("remove it with `ip address del {} dev {from}`", address.text());
            self.refuse(what.clone(), format!("ringfence can't move {unknown}"), help);
        }
        let mut text = String::new();
        if let Some(label) = label.as_ref().filter(|label| *label != from) {
            let rest = label.strip_prefix(from).filter(|rest| plain(rest));
            match rest.map(|rest| format!("{to}{rest}")) {
                Some(label) if label.len() <= LABEL => {
                    let _ = write!(text, " label {label}");
                }
                Some(longer) => self.refuse(
                    what,
                    format!(
                        "its label `{label}` would be `{longer}`, and {LABEL} bytes are the most"
                    ),
                    "give it a shorter label, or the bridge a shorter name",
                ),
                None => self.refuse(
                    what,
                    format!("its label `{label}` does not begin with `{from}`"),
                    "give it a label that begins with the name of its interface, as `ip` wants it",
                ),
            }
        }
        let there = self.holdings.addresses.iter().find(|other| {
            let same = (other.local, other.peer, other.length) == (*local, *peer, *length);
            same && other.link == self.target && self.target != 0
        });
        let name = if local == peer {
            format!("{local}/{length}")
        } else {
            format!("{local} peer {peer}/{length}")
        };
        let line = format!("address replace {name}{text}{words} dev {to}");
        let lines = match there {
            _ if local.is_ipv4() => vec![line],
            // It is the node's own on this segment, so nobody has to be asked for it.
            None if local == peer && !*nodad => vec![format!("{line} nodad"), line],
            None => vec![if *nodad { format!("{line} nodad") } else { line }],
            // The kernel would make a route more for one with another end.
            Some(there) if there.nodad != *nodad && local == peer => vec![line],
            Some(_) => Vec::new(),
        };
        (lines, format!("address del {name} dev {from}"))
    }

    /// The routes that have to be moved: all but those that the kernel makes for addresses.
    fn routes(&mut self, addresses: &[&Address]) -> Vec<&'a Route> {
        let holdings = self.holdings;
        let here: Vec<&Route> =
            holdings.routes.iter().filter(|route| route.is_by(self.source)).collect();
        let all = holdings.addresses.iter().filter(|address| address.link == self.source);
        let made: BTreeMap<(String, u32, Option<IpAddr>), &Address> = all
            .flat_map(|address| {
                let source = address.local.is_ipv4().then_some(address.local);
                let routes = address.prefix_routes().into_iter();
                routes
                    .map(move |(network, metric)| ((network.to_string(), metric, source), address))
            })
            .collect();
        let key = |route: &Route| (route.destination.to_string(), route.metric, route.source);
        let by_itself = |route: &&Route| {
            route.is_advertised()
                || route.is_of_kernel()
                    && (route.is_in_local()
                        || made.contains_key(&key(route))
                        || link_local(route)
                        || route.words.contains(" expires "))
        };
        let found: BTreeSet<_> =
            here.iter().filter(|route| route.is_of_kernel()).map(|route| key(route)).collect();
        for (key, address) in &made {
            let moves = addresses.iter().any(|other| std::ptr::eq(*other, *address));
            if self.up && moves && !found.contains(key) {
                self.obstacles.push(Obstacle::new(
                    format!("the address {}", address.text()),
                    format!("the kernel's route to {} was removed, and would come again", key.0),
                    "add the address anew with `noprefixroute`, or the route",
                ));
            }
        }
        let moved: Vec<&Route> = here.iter().copied().filter(|route| !by_itself(route)).collect();
        for route in &moved {
            self.whole(route);
        }
        self.in_order(&here, &moved);
        moved
    }

    /// Every part of a route can be said.
    fn whole(&mut self, route: &Route) {
        let what = format!("the route to {}", route.text());
        let help = "take this part from the route, or leave out `uplink.bridge`".to_owned();
        if let Some(unknown) = &route.unknown {
            self.refuse(what.clone(), format!("ringfence can't move {unknown}"), help.clone());
        }
        let named = |hop: &Hop| {
            hop.link.is_none_or(|link| self.names.get(&link).is_some_and(|name| plain(name)))
        };
        if !route.hops.iter().all(named) {
            self.refuse(what, "it leads to an interface without a plain name", help);
        }
    }

    /// A route that is recreated comes behind all that the kernel takes for the same: where others are
    /// behind it, they would come before it.
    fn in_order(&mut self, here: &[&'a Route], moved: &[&'a Route]) {
        let places: BTreeSet<_> = here
            .iter()
            .filter(|route| !(route.is_in_local() && route.is_of_kernel()))
            .map(|route| route.place())
            .collect();
        let moves = |route: &Route| moved.iter().any(|other| std::ptr::eq(*other, route));
        for place in places {
            let (mut mine, mut explicit, mut wrong) = (0, 0, false);
            for route in self.holdings.routes.iter().filter(|route| route.place() == place) {
                if route.is_by(self.source) {
                    let moves = moves(route);
                    wrong |= !moves && explicit > 0;
                    mine += 1;
                    explicit += usize::from(moves);
                } else if !(self.target != 0 && route.is_by(self.target)) {
                    wrong |= if place.0 { explicit > 0 } else { mine > 0 };
                }
            }
            if wrong || (place.0 && explicit > 0 && mine > 1) {
                let route = here.iter().find(|route| route.place() == place);
                let what = route.map(|route| format!("the route to {}", route.text()));
                self.obstacles.push(Obstacle::new(
                    what.unwrap_or_default(),
                    "another route leads there with the same metric, and would come before it",
                    "give the two different metrics",
                ));
            }
        }
    }

    /// Routes of IPv4: those on the new interface come behind the old ones, so they do nothing yet.
    fn four(&self, routes: &[&Route], copy: &mut Lines, switch: &mut Lines, clear: &mut Lines) {
        let four = routes.iter().filter(|route| route.destination.addr().is_ipv4());
        let four: Vec<&Route> = four.copied().collect();
        // Next hops must be reachable before routes lead to them, and what the node takes for itself
        // comes last: a next hop can't be in that.
        let late: BTreeSet<_> = four
            .iter()
            .filter(|route| route.hops.iter().any(|hop| !hop.via.is_empty()))
            .map(|route| route.place())
            .collect();
        let mut ordered = four.clone();
        ordered.sort_by_key(|route| (route.is_in_local(), late.contains(&route.place())));
        for route in ordered {
            let moved = self.moved(route);
            if !self.holdings.routes.contains(&moved) {
                copy.all.push(self.line("append", &moved));
            }
        }
        for route in four.iter().rev() {
            // One that has other interfaces too would outlive this one in part.
            let mixed = route.hops.iter().any(|hop| hop.link != Some(self.source));
            let lines = if mixed { &mut *switch } else { &mut *clear };
            lines.all.push(self.line("del", route));
        }
    }

    /// Routes of IPv6: the kernel would take both at the same time, so the new ones replace the old.
    fn six(&self, routes: &[&Route], switch: &mut Lines, clear: &mut Lines) {
        let six = routes.iter().filter(|route| route.destination.addr().is_ipv6());
        let mut six: Vec<&Route> = six.copied().collect();
        six.sort_by_key(|route| route.hops.iter().any(|hop| !hop.via.is_empty()));
        for route in six {
            let moved = self.moved(route);
            if self.holdings.routes.contains(&moved) {
                clear.all.push(self.line("del", route));
            } else {
                switch.all.push(self.line("replace", &moved));
            }
        }
    }

    /// The same route by the new interface.
    fn moved(&self, route: &Route) -> Route {
        let mut moved = route.clone();
        for hop in moved.hops.iter_mut().filter(|hop| hop.link == Some(self.source)) {
            hop.link = Some(self.target);
        }
        if route.destination.addr().is_ipv6() {
            moved.hops.dedup();
        }
        moved
    }

    fn line(&self, verb: &str, route: &Route) -> String {
        let Route {
            kind,
            destination,
            table,
            tos,
            metric,
            protocol,
            scope,
            source,
            hops,
            words,
            unknown: _,
        } = route;
        let mut line = format!("route {verb} {kind} {destination} table {table} proto {protocol}");
        if destination.addr().is_ipv4() {
            let _ = write!(line, " scope {scope}");
        }
        if *tos != 0 {
            let _ = write!(line, " tos {tos:#x}");
        }
        if *metric != 0 {
            let _ = write!(line, " metric {metric}");
        }
        if let Some(source) = source {
            let _ = write!(line, " src {source}");
        }
        line.push_str(words);
        for hop in hops {
            let Hop { link, via, words, weight } = hop;
            let name = link.and_then(|link| self.names.get(&link));
            let dev = name.map(|name| format!(" dev {name}")).unwrap_or_default();
            if hops.len() > 1 {
                let _ = write!(line, " nexthop{via}{dev} weight {weight}{words}");
            } else {
                let _ = write!(line, "{via}{dev}{words}");
            }
        }
        line
    }

    /// Rules that name the old interface. Returns whether there are any.
    fn rules(&mut self, copy: &mut Lines, switch: &mut Lines) -> bool {
        let holdings = self.holdings;
        let from = self.from;
        let is = |name: &Option<String>, other: &str| name.as_deref() == Some(other);
        let names = |rule: &Rule, link: &str| is(&rule.iif, link) || is(&rule.oif, link);
        let mine: Vec<&Rule> = holdings.rules.iter().filter(|rule| names(rule, from)).collect();
        for rule in &mine {
            let what = format!("the rule {}", rule.priority);
            let help = format!("remove it with `ip rule del priority {}`", rule.priority);
            let other = [&rule.iif, &rule.oif].into_iter().flatten();
            if let Some(unknown) = &rule.unknown {
                self.refuse(what, format!("ringfence can't move {unknown}"), help);
            } else if other.into_iter().any(|name| !plain(name)) {
                self.refuse(what, "it names an interface without a plain name", help);
            } else {
                let same = |other: &&Rule| (other.v6, other.priority) == (rule.v6, rule.priority);
                let behind = holdings.rules.iter().skip_while(|other| !std::ptr::eq(*other, *rule));
                let mut behind = behind.filter(same).filter(|other| !names(other, self.to));
                if behind.any(|other| !names(other, from)) {
                    let why = "another rule has the same priority, and would come before it";
                    self.refuse(what, why, "give the two different priorities");
                }
            }
            let swap = |name: &Option<String>| {
                name.as_ref()
                    .map(|name| if name == from { self.to } else { name.as_str() }.to_owned())
            };
            let moved = Rule { iif: swap(&rule.iif), oif: swap(&rule.oif), ..(*rule).clone() };
            if !holdings.rules.contains(&moved) {
                copy.of(rule.v6).push(rule_line("add", &moved));
            }
        }
        for rule in mine.iter().rev() {
            switch.of(rule.v6).push(rule_line("del", rule));
        }
        !mine.is_empty()
    }

    /// Neighbours that somebody set on the old interface. Returns whether there are any.
    fn neighbours(&mut self, copy: &mut Lines, switch: &mut Lines) -> bool {
        let source = self.source;
        let mine = self.holdings.neighbours.iter().filter(|found| found.link == source);
        let mine: Vec<&Neighbour> = mine.collect();
        for neighbour in &mine {
            let Neighbour { address, proxy, words, unknown, .. } = neighbour;
            let kind = if *proxy { "proxy " } else { "" };
            if let Some(unknown) = unknown {
                self.refuse(
                    format!("the neighbour {address}"),
                    format!("ringfence can't move {unknown}"),
                    format!("remove it with `ip neigh del {kind}{address} dev {}`", self.from),
                );
            }
            copy.all.push(format!("neigh replace {kind}{address}{words} dev {}", self.to));
            switch.all.push(format!("neigh del {kind}{address} dev {}", self.from));
        }
        !mine.is_empty()
    }
}

fn rule_line(verb: &str, rule: &Rule) -> String {
    let Rule { v6: _, priority, iif, oif, words: (matches, does), unknown: _ } = rule;
    let mut line = format!("rule {verb}");
    let (not, matches) = match matches.strip_prefix(" not") {
        Some(rest) => (" not", rest),
        None => ("", matches.as_str()),
    };
    let _ = write!(line, "{not} priority {priority}{matches}");
    for (word, name) in [("iif", iif), ("oif", oif)] {
        if let Some(name) = name {
            let _ = write!(line, " {word} {name}");
        }
    }
    line.push_str(does);
    line
}

/// Whether the kernel makes such a route on every interface with IPv6.
fn link_local(route: &Route) -> bool {
    let IpAddr::V6(address) = route.destination.addr() else { return false };
    address.is_unicast_link_local() || address.is_multicast()
}

/// Whether a name is one word of a line.
fn plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"'\\#".contains(&byte))
}
