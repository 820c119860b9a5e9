//! Networks of any size, the same each time.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// How large a network is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub nodes: usize,
    pub projects: usize,
    pub pods_per_node: usize,
    /// Rules of each egress policy; every project has one.
    pub rules: usize,
    /// Whether every project has a service of two ports, and who reaches it.
    pub services: Services,
}

/// Which services there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Services {
    /// None.
    None,
    /// One of two ports in each project, for the project's own pods.
    OfProjects,
    /// The same, for the nodes' own processes too.
    OfProjectsAndNodes,
}

const SERVICE: &str = "    services:\n      - name: web\n        selector: {app: web}\n        ports: \
                       [{name: http, port: 80, targetPort: 8080}, {name: https, port: 443, \
                       targetPort: 8443}]\n";

/// A number that follows from others and looks like chance (`SplitMix64`).
pub fn mixed(mut seed: u64) -> u64 {
    seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    seed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    seed = (seed ^ (seed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    seed ^ (seed >> 31)
}

/// Writes a network as a directory: the nodes in one file, a hundred projects in each other.
pub fn write(directory: &Path, size: Size) {
    fs::create_dir_all(directory).expect("a directory");
    let mut text = "version: 1\ncluster:\n  podNetworks: [{cidr: 10.128.0.0/14, hostPrefix: 23}]\n\
                    nodes:\n"
        .to_owned();
    for node in 0..size.nodes {
        let (a, b) = (node / 250, node % 250 + 1);
        let _ = writeln!(
            text,
            "  - name: node-{node}\n    address: 192.168.{a}.{b}\n    \
             uplink: {{interface: eth0, subnet: 192.168.0.0/16, gateway: 192.168.255.254}}"
        );
    }
    if size.services == Services::OfProjects {
        text.push_str("nodeServices: []\n");
    }
    fs::write(directory.join("nodes.yaml"), text).expect("nodes.yaml");
    let pods = size.nodes * size.pods_per_node;
    let mut pods_of: Vec<Vec<usize>> = vec![Vec::new(); size.projects];
    for pod in 0..pods {
        // Every node gets its number of pods; which projects they are of is spread.
        let seed = u64::try_from(pod).expect("small");
        let project = usize::try_from(mixed(seed) % size.projects as u64).expect("small");
        pods_of[project].push(pod % size.nodes);
    }
    for (number, projects) in pods_of.chunks(100).enumerate() {
        let mut text = "projects:\n".to_owned();
        let mut policies = "egressPolicies:\n".to_owned();
        for (index, pods) in projects.iter().enumerate() {
            let project = number * 100 + index;
            let _ = writeln!(
                text,
                "  - name: project-{project}\n    labels: {{team: team-{}}}\n    pods:",
                project % 50
            );
            for (pod, node) in pods.iter().enumerate() {
                let _ = writeln!(
                    text,
                    "      - {{name: pod-{pod}, node: node-{node}, labels: {{app: web}}}}"
                );
            }
            if pods.is_empty() {
                text.push_str("      []\n");
            }
            if size.services != Services::None {
                text.push_str(SERVICE);
            }
            policy(&mut policies, project, size.rules);
        }
        fs::write(directory.join(format!("projects-{number:03}.yaml")), text + &policies)
            .expect("projects");
    }
}

/// Adds one more project with a pod on the first node, and a policy.
pub fn write_project(directory: &Path, size: Size) {
    let mut text = "projects:\n  - name: one-more\n    pods:\n      \
                    - {name: pod-0, node: node-0}\negressPolicies:\n"
        .to_owned();
    policy(&mut text, size.projects, 20);
    let text = text.replace(&format!("project-{}", size.projects), "one-more");
    fs::write(directory.join("one-more.yaml"), text).expect("one-more.yaml");
}

fn policy(text: &mut String, project: usize, rules: usize) {
    let _ = writeln!(text, "  - project: project-{project}\n    rules:");
    for rule in 0..rules - 1 {
        let (a, b) = (project % 200 + 20, rule % 250);
        if rule % 4 == 3 {
            let _ = writeln!(
                text,
                "      - allow: {{cidr: 100.{a}.{b}.0/24, ports: [{{protocol: udp, port: {}}}]}}",
                5000 + rule
            );
        } else {
            let _ = writeln!(text, "      - allow: {{cidr: 100.{a}.{b}.0/24}}");
        }
    }
    text.push_str("      - deny: {cidr: 0.0.0.0/0}\n");
}
