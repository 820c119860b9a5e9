//! Ports, links and addresses of a node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::artifact::host;
use crate::artifact::node::{Bridge, Meter, Netns, NodeConfig, Port, Tun, Uplink, with_length};
use crate::diagnostic::{Code, Diagnostic};
use crate::intent::{self, Attachment, NodeId};
use crate::model::{Model, Workload, veth_name};
use crate::value::{Bandwidth, InterfaceName, Mac, NetnsName, StringValue as _};

pub(super) fn lower(
    model: &Model,
    node: NodeId,
    draining: BTreeMap<Ipv4Addr, Vec<Ipv4Addr>>,
) -> Result<NodeConfig, Diagnostic> {
    let intent = model.intent();
    let cluster = intent.cluster();
    let subnet = model.subnet(node);
    let gateway = model.gateway(node);
    let mut ports = Vec::new();
    let mut netns = Vec::new();
    for workload in model.workloads(node) {
        let endpoint = model.endpoint(workload);
        let subject = model.workload_subject(workload);
        let namespace = namespace(model, workload)?;
        let interface = match (&namespace, workload) {
            (None, Workload::Pod(id)) => match &intent[id].attachment {
                Attachment::Interface(interface) => interface.clone(),
                Attachment::Netns(_) => return Err(internal("a pod without interface")),
            },
            _ => veth_name(subject.cookie).ok_or_else(|| internal("a veth without a name"))?,
        };
        ports.push(Port {
            interface: interface.clone(),
            ofport: endpoint.port,
            owner: subject.name.to_string(),
            cookie: subject.cookie,
            ingress: match workload {
                Workload::Pod(id) => intent[id].ingress.map(Bandwidth::get),
                Workload::Router(_) => None,
            },
            meter: model.meter(workload).map(|(id, bandwidth)| Meter::new(id, bandwidth)),
        });
        if let Workload::Router(id) = workload
            && let Some(ofport) = super::router::outside_port(model, id)
        {
            ports.push(Port {
                interface: super::router::outside_veth(model, id)?,
                ofport,
                owner: subject.name.to_string(),
                cookie: subject.cookie,
                ingress: None,
                meter: None,
            });
        }
        if let Some(name) = namespace {
            netns.push(Netns {
                name,
                host: interface,
                mac: endpoint.mac,
                address: with_length(endpoint.address, subnet),
                gateway: matches!(workload, Workload::Pod(_)).then_some(gateway),
                owner: subject.name.to_string(),
                cookie: subject.cookie,
            });
        }
    }
    ports.sort_by_key(|port| port.ofport);
    netns.sort_by(|a, b| a.name.cmp(&b.name));
    let interfaces: BTreeSet<&InterfaceName> = ports.iter().map(|port| &port.interface).collect();
    if interfaces.len() != ports.len() {
        return Err(internal("two veths with one name"));
    }
    let egress_ips = super::egress_ip::wiring(model, node);
    let uplink = intent[node].uplink.as_ref();
    let sysctls = sysctls(uplink, !egress_ips.is_empty());
    Ok(NodeConfig {
        version: NodeConfig::VERSION,
        node: intent[node].name.clone(),
        address: intent[node].address,
        mtu: cluster.mtu,
        pod_networks: cluster.pod_networks.iter().map(|network| network.cidr).collect(),
        bridge: Bridge {
            name: interface(host::BRIDGE)?,
            datapath: model.datapath(node),
            vxlan_port: cluster.vxlan_port.get(),
        },
        tun: Tun {
            mac: Mac::of_ipv4(gateway),
            address: with_length(gateway, subnet),
            services: model.has_services().then_some(cluster.service_network),
        },
        ports,
        netns,
        routers: super::router::wiring(model, node)?,
        egress_ips,
        draining,
        uplink: uplink.filter(|uplink| uplink.bridge.is_some() || uplink.mtu.is_some()).map(
            |uplink| Uplink {
                interface: uplink.interface.clone(),
                bridge: uplink.bridge.clone(),
                disable_init: uplink.disable_init,
                pod_mtu: cluster.mtu,
                least_mtu: cluster.least_mtu(),
            },
        ),
        sysctls,
    })
}

/// The kernel settings of a node.
fn sysctls(uplink: Option<&intent::Uplink>, egress_ips: bool) -> BTreeMap<String, String> {
    let mut sysctls = BTreeMap::from([("net.ipv4.ip_forward".to_owned(), "1".to_owned())]);
    if egress_ips {
        // With 1, the kernel would not answer for addresses of `lo`.
        sysctls.insert("net.ipv4.conf.all.arp_ignore".to_owned(), "0".to_owned());
    }
    if let Some((uplink, filter)) = uplink.and_then(|uplink| Some((uplink, uplink.rp_filter?))) {
        // A dot in the name of an interface is a slash in that of its setting.
        let interface = uplink.addressed().as_str().replace('.', "/");
        let setting = format!("net.ipv4.conf.{interface}.rp_filter");
        sysctls.insert(setting, filter.value().to_string());
    }
    sysctls
}

/// The namespace of a pod or egress router, unless it brings its own interface.
pub(super) fn namespace(
    model: &Model,
    workload: Workload,
) -> Result<Option<NetnsName>, Diagnostic> {
    match workload {
        Workload::Pod(id) => Ok(match &model.intent()[id].attachment {
            Attachment::Netns(name) => Some(name.clone()),
            Attachment::Interface(_) => None,
        }),
        Workload::Router(id) => {
            NetnsName::parse(&format!("{}{}", host::ROUTER_NETNS_PREFIX, model.intent()[id].name))
                .map(Some)
                .map_err(|_| internal("a router's namespace has no name"))
        }
    }
}

pub(super) fn interface(name: &str) -> Result<InterfaceName, Diagnostic> {
    InterfaceName::parse(name).map_err(|_| internal("an interface of ours has no name"))
}

pub(super) fn internal(what: &str) -> Diagnostic {
    Diagnostic::new(Code::Internal, format!("the plan has {what}"))
}
