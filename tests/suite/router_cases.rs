//! The environment forms of openshift-sdn's egress routers, and the destinations of its successor's
//! CNI plug-in: whoever moves from there gets the same, or is told what was wrong all along.

use std::fmt::Write as _;
use std::fs;

use crate::support::ringfence;

/// What comes of a form.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The elements of the map of destinations, and where the rest leads.
    Redirects(Vec<String>, Option<String>),
    /// The rules of squid: verdict and condition.
    Rules(Vec<String>),
    /// The ports of haproxy with their servers.
    Ports(Vec<String>),
    /// The codes of the errors.
    Refused(Vec<String>),
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn redirects(elements: &[&str], rest: &str) -> Outcome {
    Outcome::Redirects(owned(elements), Some(rest.to_owned()).filter(|rest| !rest.is_empty()))
}

fn rules(rules: &[&str]) -> Outcome {
    Outcome::Rules(owned(rules))
}

fn ports(ports: &[&str]) -> Outcome {
    Outcome::Ports(owned(ports))
}

fn refused(codes: &[&str]) -> Outcome {
    Outcome::Refused(owned(codes))
}

/// A text as a YAML string that means just it.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

/// A word that is a number in YAML, if it is one.
fn number(word: &str) -> String {
    if word.parse::<u64>().is_ok() { word.to_owned() } else { quoted(word) }
}

/// The lines of a form, without comments and empty ones.
fn lines(form: &str) -> impl Iterator<Item = &str> {
    form.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// `EGRESS_DESTINATION`: a line is `PORT PROTOCOL ADDRESS [PORT]`, or an address alone.
fn redirect_lines(form: &str) -> String {
    let entry = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let keys = if words.len() == 1 {
            &["to"][..]
        } else {
            &["port", "protocol", "to", "toPort", "more"]
        };
        let pairs = keys.iter().zip(&words).map(|(key, word)| match *key {
            "port" | "toPort" => format!("{key}: {}", number(word)),
            "protocol" => format!("{key}: {}", quoted(&word.to_lowercase())),
            _ => format!("{key}: {}", quoted(word)),
        });
        format!("      - {{{}}}\n", pairs.collect::<Vec<_>>().join(", "))
    };
    list("destinations", &lines(form).map(entry).collect::<Vec<_>>())
}

/// `EGRESS_HTTP_PROXY_DESTINATION`: a line is a site, `!` denies it.
fn http_lines(form: &str) -> String {
    let entry = |line: &str| match line.strip_prefix('!') {
        Some(site) => format!("      - deny: {}\n", quoted(site)),
        None => format!("      - allow: {}\n", quoted(line)),
    };
    list("rules", &lines(form).map(entry).collect::<Vec<_>>())
}

/// `EGRESS_DNS_PROXY_DESTINATION`: a line is `PORT HOST [PORT]`.
fn dns_lines(form: &str) -> String {
    let entry = |line: &str| {
        let words = line.split_whitespace();
        let pairs = ["port", "to", "toPort", "more"].iter().zip(words);
        let pairs = pairs.map(|(key, word)| match *key {
            "port" | "toPort" => format!("{key}: {}", number(word)),
            _ => format!("{key}: {}", quoted(word)),
        });
        format!("      - {{{}}}\n", pairs.collect::<Vec<_>>().join(", "))
    };
    list("destinations", &lines(form).map(entry).collect::<Vec<_>>())
}

fn list(key: &str, entries: &[String]) -> String {
    if entries.is_empty() { String::new() } else { format!("    {key}:\n{}", entries.concat()) }
}

/// What ringfence makes of a router.
fn outcome(source: &str, gateway: &str, mode: &str, entries: &str) -> Outcome {
    let text = format!(
        "version: 1\nnodes:\n  - name: node-1\n    address: 1.0.0.1\n    uplink: {{interface: \
         eth0, subnet: 1.0.0.0/8}}\nprojects: [{{name: shop}}]\negressRouters:\n  - name: outlet\n    \
         project: shop\n    mode: {mode}\n    source: {}\n    gateway: {}\n{entries}",
        quoted(source),
        quoted(gateway),
    );
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("network.yaml"), &text).unwrap();
    let lock = ringfence(directory.path(), &["lock"]);
    if lock.status != 0 {
        let codes = lock.stderr.lines().filter_map(|line| line.strip_prefix("error["));
        let mut codes: Vec<String> =
            codes.map(|line| line.split(']').next().unwrap().to_owned()).collect();
        codes.dedup();
        assert!(!codes.is_empty(), "{}", lock.stderr);
        return Outcome::Refused(codes);
    }
    let compile = ringfence(directory.path(), &["compile", "-o", "out"]);
    assert_eq!(compile.status, 0, "{}", compile.stderr);
    let read = |name: &str| {
        let path = format!("out/node-1/routers/outlet/{name}");
        fs::read_to_string(directory.path().join(path)).unwrap_or_default()
    };
    let ruleset = read("ruleset.nft");
    let address = source.split('/').next().unwrap();
    let snat = format!("oifname \"net1\" snat ip to {address}");
    assert!(ruleset.contains(&snat), "{ruleset}");
    let squid = read("squid.conf");
    if !squid.is_empty() {
        return Outcome::Rules(squid_rules(&squid));
    }
    let haproxy = read("haproxy.cfg");
    if !haproxy.is_empty() {
        return Outcome::Ports(haproxy_ports(&haproxy));
    }
    let elements = ruleset.lines().map(str::trim);
    let elements = elements.filter(|line| line.ends_with(',') && line.contains(" . "));
    let elements = elements.map(|line| line.trim_end_matches(',').to_owned()).collect();
    let rest = ruleset.split("dnat ip to ").skip(1).map(|rest| rest.split(' ').next().unwrap());
    let rest = rest.filter(|to| *to != "meta").map(str::to_owned).next();
    Outcome::Redirects(elements, rest)
}

/// The rules of squid between those that every proxy has.
fn squid_rules(config: &str) -> Vec<String> {
    let words = config.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mut conditions = std::collections::BTreeMap::new();
    let mut rules = Vec::new();
    for words in words {
        match words[..] {
            ["acl", name, ref condition @ ..] => {
                conditions.insert(name.to_owned(), condition.join(" ").replace(" -n ", " "));
            }
            ["http_access", verdict, name] => {
                let condition = conditions.get(name).map_or(name, String::as_str);
                rules.push(format!("{verdict} {condition}"));
            }
            _ => {}
        }
    }
    assert_eq!(rules.first().map(String::as_str), Some("deny manager"));
    assert_eq!(rules.last().map(String::as_str), Some("deny all"));
    rules[1..rules.len() - 1].to_vec()
}

/// The ports of haproxy with their servers, `*` before names that are resolved.
fn haproxy_ports(config: &str) -> Vec<String> {
    let mut ports = Vec::new();
    let mut port = "";
    for line in config.lines().map(str::trim) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["bind", at] => port = at.rsplit_once(':').unwrap().1,
            ["server", _, to, ..] => ports.push(format!("{port} {to}")),
            ["server-template", _, _, to, ..] => {
                assert!(line.contains(" resolvers rf_names "), "{line}");
                ports.push(format!("{port} *{to}"));
            }
            _ => {}
        }
    }
    ports
}

/// Compares every case and tells all that differ.
fn check(cases: Vec<(&str, Outcome, Outcome)>) {
    let mut wrong = String::new();
    for (name, found, expected) in cases {
        if found != expected {
            let _ = writeln!(wrong, "{name}: {found:?} instead of {expected:?}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

const GOOD: (&str, &str) = ("1.2.3.4", "1.1.1.1");

#[test]
fn redirecting_routers_do_what_the_script_did() {
    let comments = "\n# My egress-router rules\n\n# Port 80 forwards to 10.4.5.6\n80 tcp 10.4.5.6\n\n\
                    # Port 8080\n8080 tcp 10.7.8.9 80\n\n# Skip this rule for now\n\
                    # 8443 tcp 10.7.8.9 443\n\n# Fallback\n10.1.2.3\n\n# Nothing behind it\n";
    let eighty = "tcp . 80 : 10.4.5.6 . 80";
    let other = "tcp . 8080 : 10.7.8.9 . 80";
    let cases = [
        ("all ports", GOOD, "10.1.2.3", redirects(&[], "10.1.2.3")),
        ("a source with length", ("1.2.3.4/24", "1.1.1.1"), "10.1.2.3", redirects(&[], "10.1.2.3")),
        ("a line break at the end", GOOD, "10.1.2.3\n", redirects(&[], "10.1.2.3")),
        ("one port", GOOD, "80 tcp 10.4.5.6", redirects(&[eighty], "")),
        ("another port outside", GOOD, "8080 tcp 10.7.8.9 80", redirects(&[other], "")),
        (
            "two ports",
            GOOD,
            "80 tcp 10.4.5.6\n8080 tcp 10.7.8.9 80",
            redirects(&[eighty, other], ""),
        ),
        (
            "two ports and a fallback",
            GOOD,
            "80 tcp 10.4.5.6\n8080 tcp 10.7.8.9 80\n10.1.2.3",
            redirects(&[eighty, other], "10.1.2.3"),
        ),
        ("comments", GOOD, comments, redirects(&[eighty, other], "10.1.2.3")),
        // Here the script was too strict: its successor takes both.
        (
            "one number, two protocols",
            GOOD,
            "53 tcp 10.1.2.3\n53 udp 10.1.2.3",
            redirects(&["tcp . 53 : 10.1.2.3 . 53", "udp . 53 : 10.1.2.3 . 53"], ""),
        ),
        ("SCTP", GOOD, "80 sctp 10.4.5.6", redirects(&["sctp . 80 : 10.4.5.6 . 80"], "")),
        // What it refused.
        ("no source", ("not an IP address", "1.1.1.1"), "10.1.2.3", refused(&["RF013"])),
        ("lines as a source", ("not\nan\nIP\naddress", "1.1.1.1"), "10.1.2.3", refused(&["RF013"])),
        ("no gateway", ("1.2.3.4", "not an IP address"), "10.1.2.3", refused(&["RF013"])),
        ("no destination", GOOD, "", refused(&["RF091"])),
        ("no address", GOOD, "not an IP address", refused(&["RF007", "RF008", "RF180", "RF007"])),
        ("a fallback first", GOOD, "10.1.2.3\n80 tcp 10.4.5.6", refused(&["RF089"])),
        ("two fallbacks", GOOD, "10.1.2.3\n10.4.5.6", refused(&["RF089"])),
        (
            "a fallback between",
            GOOD,
            "80 tcp 10.4.5.6\n10.1.2.3\n8080 tcp 10.7.8.9 80",
            refused(&["RF089"]),
        ),
        (
            "a word between",
            GOOD,
            "80 tcp 10.4.5.6\ninvalid\n8080 tcp 10.7.8.9 80",
            refused(&["RF180"]),
        ),
        ("a port too large", GOOD, "800000 tcp 10.4.5.6", refused(&["RF022"])),
        (
            "a port twice",
            GOOD,
            "80 tcp 10.4.5.6\n8080 tcp 10.7.8.9 80\n80 tcp 10.7.8.9 900",
            refused(&["RF090"]),
        ),
        // What it took, though it could not work.
        ("an octet too large", GOOD, "999.0.113.25", refused(&["RF013"])),
        ("a length too large", ("1.2.3.4/99", "1.1.1.1"), "10.1.2.3", refused(&["RF013"])),
        ("a gateway elsewhere", ("1.2.3.4", "2.1.1.1"), "10.1.2.3", refused(&["RF084"])),
        ("the address of the network", ("1.0.0.0", "1.1.1.1"), "10.1.2.3", refused(&["RF086"])),
    ];
    let check_one =
        |(name, (source, gateway), form, expected): (_, (&str, &str), &str, Outcome)| {
            (name, outcome(source, gateway, "redirect", &redirect_lines(form)), expected)
        };
    check(cases.map(check_one).into());
}

#[test]
fn redirecting_routers_do_what_the_plug_in_does() {
    let cases = [
        ("all ports", "10.1.2.3", redirects(&[], "10.1.2.3")),
        // As its documentation has it, and its code makes `<nil>` of it.
        ("a length", "172.217.15.78/32", refused(&["RF013"])),
        (
            "several lengths",
            "80 UDP 10.100.3.0/30\n8080 TCP 203.0.113.26/30 80\n8443 TCP 203.0.113.27/30 443",
            refused(&["RF013"]),
        ),
        (
            "three protocols",
            "80 UDP 10.100.3.0\n8080 SCTP 203.0.113.26 80\n8443 TCP 203.0.113.27 443",
            redirects(
                &[
                    "tcp . 8443 : 203.0.113.27 . 443",
                    "udp . 80 : 10.100.3.0 . 80",
                    "sctp . 8080 : 203.0.113.26 . 80",
                ],
                "",
            ),
        ),
        (
            "IPv6",
            "80 UDP 10:100:3::0\n8080 SCTP 203:0:113::26 80\n8443 TCP 203:0:113::27 443",
            refused(&["RF016"]),
        ),
        (
            "two protocols",
            "80 UDP 10.100.3.0\n8080 TCP 203.0.113.26 80\n8443 TCP 203.0.113.27 443",
            redirects(
                &[
                    "tcp . 8080 : 203.0.113.26 . 80",
                    "tcp . 8443 : 203.0.113.27 . 443",
                    "udp . 80 : 10.100.3.0 . 80",
                ],
                "",
            ),
        ),
        // Its fallback is written down and forgotten; here it works.
        (
            "a fallback",
            "80 udp 10.100.3.0\n10.1.2.3",
            redirects(&["udp . 80 : 10.100.3.0 . 80"], "10.1.2.3"),
        ),
        ("another protocol", "80 icmp 10.1.2.3", refused(&["RF008"])),
        ("a port too large", "70000 tcp 10.1.2.3", refused(&["RF022"])),
        ("a port by name", "http tcp 10.1.2.3", refused(&["RF007"])),
        ("an outside port too large", "80 tcp 10.1.2.3 99999", refused(&["RF022"])),
        ("two words", "80 10.1.2.3", refused(&["RF006", "RF008"])),
        ("five words", "80 tcp 10.1.2.3 8080 x", refused(&["RF005"])),
        // What it took, though it could not work.
        ("port 0", "0 tcp 10.1.2.3", refused(&["RF022"])),
        ("a port twice", "80 tcp 10.1.2.3\n80 tcp 10.1.2.4", refused(&["RF090"])),
        (
            "one number, two protocols",
            "53 tcp 10.1.2.3\n53 udp 10.1.2.3",
            redirects(&["tcp . 53 : 10.1.2.3 . 53", "udp . 53 : 10.1.2.3 . 53"], ""),
        ),
        ("nothing", "", refused(&["RF091"])),
    ];
    let check_one = |(name, form, expected): (_, &str, Outcome)| {
        (name, outcome(GOOD.0, GOOD.1, "redirect", &redirect_lines(form)), expected)
    };
    check(cases.map(check_one).into());
}

#[test]
fn http_proxies_do_what_the_script_did() {
    let comments = "\n# HTTP proxy config\n\n!*.bad.example.com\n*.example.com\n\n192.168.0.0/16\n\
                    # end\n";
    let cases = [
        ("everything", "*", rules(&["allow all"])),
        ("a host", "example.com", rules(&["allow dstdomain example.com"])),
        ("not a host", "!example.com", rules(&["deny dstdomain example.com"])),
        ("a domain", "*.example.com", rules(&["allow dstdomain .example.com"])),
        ("an address", "192.168.1.1", rules(&["allow dst 192.168.1.1"])),
        ("a network", "192.168.1.0/24", rules(&["allow dst 192.168.1.0/24"])),
        (
            "all but a domain",
            "\n!*.example.net\n*\n",
            rules(&["deny dstdomain .example.net", "allow all"]),
        ),
        (
            "comments",
            comments,
            rules(&[
                "deny dstdomain .bad.example.com",
                "allow dstdomain .example.com",
                "allow dst 192.168.0.0/16",
            ]),
        ),
        // IPv6 has no way out of a router yet.
        ("IPv6", "*.example.com\nfe80::/10", refused(&["RF016"])),
        ("nothing", "", refused(&["RF175"])),
        ("everything first", "*\nexample.com", refused(&["RF177"])),
        ("two words", "foo bar", refused(&["RF173"])),
        // The script skips it without a word.
        ("a host without domain", "www", rules(&["allow dstdomain www"])),
        // What it took, though it could not work.
        ("a length too large", "1.2.3.4/99", refused(&["RF014"])),
        ("an octet too large", "999.0.113.25", refused(&["RF013"])),
        ("host bits", "192.168.1.1/24", refused(&["RF015"])),
    ];
    let check_one = |(name, form, expected): (_, &str, Outcome)| {
        (name, outcome(GOOD.0, GOOD.1, "http-proxy", &http_lines(form)), expected)
    };
    check(cases.map(check_one).into());
}

#[test]
fn dns_proxies_do_what_the_script_did() {
    let comments = "\n# My rules\n\n# Port 80\n80 11.12.13.14\n\n# Port 8080\n\
                    8080 example.com 100\n\n# Skip this rule for now\n# 9000 foo.com 200\n\n# End\n";
    let cases = [
        ("an address", "80 11.12.13.14", ports(&["80 11.12.13.14:80"])),
        (
            "another port outside",
            "80 11.12.13.14\n8080 21.22.23.24 100",
            ports(&["80 11.12.13.14:80", "8080 21.22.23.24:100"]),
        ),
        // However many addresses a name has at the time: up to eight are used.
        ("a name", "80 example.com", ports(&["80 *example.com:80"])),
        (
            "two names",
            "80 example.com\n8080 foo.com 100",
            ports(&["80 *example.com:80", "8080 *foo.com:100"]),
        ),
        (
            "an address and a name",
            "80 11.12.13.14\n8080 example.com 100",
            ports(&["80 11.12.13.14:80", "8080 *example.com:100"]),
        ),
        ("comments", comments, ports(&["80 11.12.13.14:80", "8080 *example.com:100"])),
        (
            "a name with several addresses",
            "\n# Port 8080\n8080 example.com 100\n",
            ports(&["8080 *example.com:100"]),
        ),
        (
            "in another order",
            "\n80 11.12.13.14\n9000 foo.com 200\n8080 example.com 100\n8081 bar.com 100\n",
            ports(&[
                "80 11.12.13.14:80",
                "8080 *example.com:100",
                "8081 *bar.com:100",
                "9000 *foo.com:200",
            ]),
        ),
        ("nothing", "", refused(&["RF091"])),
        ("a word", "80 11.12.13.14\ninvalid", refused(&["RF006", "RF007"])),
        ("no full name", "80 11.12.13.14\n8080 invalid", refused(&["RF173"])),
        ("a port too large", "99999 11.12.13.14", refused(&["RF022"])),
        ("an outside port too large", "80 11.12.13.14 88888", refused(&["RF022"])),
        ("a port twice", "80 11.12.13.14\n80 21.22.23.24 100", refused(&["RF090"])),
        ("a domain", "80 *.example.com", refused(&["RF173"])),
        ("a network", "80 11.12.13.0/24", refused(&["RF013"])),
    ];
    let check_one = |(name, form, expected): (_, &str, Outcome)| {
        (name, outcome(GOOD.0, GOOD.1, "dns-proxy", &dns_lines(form)), expected)
    };
    check(cases.map(check_one).into());
}
