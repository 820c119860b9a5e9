//! Services, node ports, multicast, egress IPs and patch ports: each lemma about them is seen to fail, and
//! holes that were mended once are refuted when they are put back.

use std::collections::BTreeSet;

use ringfence::proof::contract::Lemma;
use ringfence::proof::node::{Text, prove};
use ringfence::proof::verdict::{Verdict, summary};

use crate::proof::{holds, meaning, text};

/// A break: example and node, file, what is replaced by what, and the lemma that must notice.
type Break = (&'static str, usize, File, &'static str, &'static str, Lemma);

#[derive(Clone, Copy, Debug)]
enum File {
    Flows,
    Groups,
    Ruleset,
}

use File::{Flows, Groups, Ruleset};

const SERVICES: &str = "services";

const BREAKS: &[Break] = &[
    // A target at another port, and one group for another service.
    (SERVICES, 0, Groups, "10.128.3.201:8081", "10.128.3.201:8082", Lemma::L6),
    (SERVICES, 0, Flows, "actions=group:1200022781", "actions=group:1821068640", Lemma::L6),
    // Clients lose their target.
    (SERVICES, 0, Groups, ",selection_method=hash,fields=ip_src", "", Lemma::L6),
    // Another tenant reaches it.
    (
        SERVICES,
        0,
        Flows,
        "tcp,reg0=0xafc295,nw_dst=172.30.214.15",
        "tcp,reg0=0xdf72ee,nw_dst=172.30.214.15",
        Lemma::L6,
    ),
    // Invalid packets of conntrack choose a target.
    (
        SERVICES,
        0,
        Flows,
        "priority=100,ct_state=+new+trk,tcp,reg0=0xafc295,nw_dst=172.30.214.15",
        "priority=100,tcp,reg0=0xafc295,nw_dst=172.30.214.15",
        Lemma::L6,
    ),
    // Answers keep the address of the pod.
    (
        SERVICES,
        0,
        Flows,
        "ip,nw_src=10.128.5.212 actions=ct(table=70,zone=60,nat)",
        "ip,nw_src=10.128.5.212 actions=goto_table:70",
        Lemma::L6,
    ),
    (
        SERVICES,
        0,
        Flows,
        "priority=50,ip,nw_dst=10.128.0.1 actions=ct(table=70,zone=60,nat)",
        "priority=50,ip,nw_dst=10.128.0.1 actions=goto_table:70",
        Lemma::L6,
    ),
    // Lost instead of refused.
    (
        SERVICES,
        0,
        Flows,
        "reg0=0xdf72ee,nw_dst=172.30.209.45 actions=goto_table:63",
        "reg0=0xdf72ee,nw_dst=172.30.209.45 actions=drop",
        Lemma::L6,
    ),
    (SERVICES, 0, Flows, "set_field:2->arp_op", "set_field:1->arp_op", Lemma::L6),
    (
        SERVICES,
        0,
        Flows,
        "nw_src=10.128.1.239,nw_dst=10.128.1.239 actions=move:NXM_NX_REG3[]->NXM_OF_IP_SRC[],",
        "nw_src=10.128.1.239,nw_dst=10.128.1.239 actions=",
        Lemma::L6,
    ),
    // What conntrack has translated goes round isolation, and round the egress policy.
    (
        SERVICES,
        0,
        Flows,
        "table=61, priority=100,ip,nw_dst=10.128.0.0/23 actions=goto_table:70",
        "table=61, priority=100,ip,nw_dst=10.128.0.0/23 actions=set_field:0x1f9->reg2,output:NXM_NX_REG2[]",
        Lemma::L3,
    ),
    (
        SERVICES,
        0,
        Flows,
        "table=60, priority=200,ip,nw_dst=203.0.113.40 actions=goto_table:99",
        "table=60, priority=200,ip,nw_dst=203.0.113.40 actions=goto_table:101",
        Lemma::L5,
    ),
    // An answer to itself goes to another pod.
    (
        SERVICES,
        0,
        Flows,
        "set_field:10.128.1.239->ip_dst",
        "set_field:10.128.1.94->ip_dst",
        Lemma::L3,
    ),
    (
        "node-ports",
        0,
        Flows,
        "table=55, priority=100,ct_state=+new+trk,tcp,reg0=0xdf72ee,tp_dst=30080",
        "table=55, priority=100,ct_state=+new+trk,tcp,reg0=0xafc295,tp_dst=30080",
        Lemma::L8,
    ),
    (
        "node-ports",
        0,
        Flows,
        "table=55, priority=50,ct_state=+new+trk,tcp,tp_dst=30080 actions=drop",
        "table=55, priority=50,ct_state=+new+trk,tcp,tp_dst=30080 actions=goto_table:99",
        Lemma::L8,
    ),
    ("node-ports", 0, Flows, "set_field:0xac1e3f33->reg3", "set_field:0xac1e3f34->reg3", Lemma::L8),
    // A member gets nothing, an egress router a copy, another network one, and a node none.
    ("multicast", 0, Flows, "output:69,output:232,move", "output:69,move", Lemma::L7),
    (
        "multicast",
        0,
        Flows,
        "in_port=330 actions=drop",
        "in_port=330 actions=output:410",
        Lemma::L7,
    ),
    (
        "multicast",
        0,
        Flows,
        "table=120, priority=100,ip,reg0=0xb2c8a6 actions=output:410",
        "table=120, priority=100,ip,reg0=0xb2c8a6 actions=output:410,output:264",
        Lemma::L7,
    ),
    (
        "multicast",
        0,
        Flows,
        "output:1,set_field:192.168.12.13->tun_dst,output:1",
        "output:1",
        Lemma::L7,
    ),
    (
        "egress-ips",
        0,
        Flows,
        "table=101, priority=100,ip,nw_src=10.128.0.254",
        "table=101, priority=100,ip,nw_src=10.128.1.239",
        Lemma::L9,
    ),
    (
        "egress-ips",
        0,
        Flows,
        "ip,reg0=0xafc295,nw_src=10.128.5.242",
        "ip,nw_src=10.128.5.242",
        Lemma::L9,
    ),
    ("egress-ips", 0, Flows, "ip,nw_dst=10.128.5.242", "ip,nw_dst=10.128.4.0/23", Lemma::L9),
    (
        "egress-ips",
        0,
        Ruleset,
        "10.128.5.242 : 192.168.12.99",
        "10.128.5.242 : 192.168.12.130",
        Lemma::L9,
    ),
    ("gateway-bridge", 0, Flows, "ip,nw_dst=192.168.12.99", "ip,nw_dst=192.168.12.98", Lemma::L11),
    (
        "gateway-bridge",
        0,
        Flows,
        "ip,in_port=48915,dl_src=0a:58:c0:a8:0c:63,nw_src=192.168.12.99",
        "ip,in_port=48915,dl_src=0a:58:c0:a8:0c:63",
        Lemma::L11,
    ),
    // Fragments, tags, and the tunnels of nodes.
    (
        "quickstart",
        0,
        Flows,
        "table=30, priority=400,tcp,nw_frag=first,tp_src=0,tp_dst=0 actions=drop",
        "table=30, priority=4,tcp,nw_frag=first,tp_src=0,tp_dst=0 actions=drop",
        Lemma::L1,
    ),
    (
        "quickstart",
        0,
        Flows,
        "table=0, priority=300,vlan_tci=0x1000/0x1000 actions=drop",
        "table=0, priority=1,vlan_tci=0x1000/0x1000 actions=drop",
        Lemma::L1,
    ),
    (
        "quickstart",
        0,
        Flows,
        "table=99, priority=300,udp,nw_dst=192.168.12.12,tp_dst=4789 actions=drop",
        "table=99, priority=300,udp,nw_dst=192.168.12.12,tp_dst=4789 actions=goto_table:101",
        Lemma::L5,
    ),
];

fn replaced(bytes: &mut Vec<u8>, from: &str, to: &str) {
    let text = String::from_utf8(std::mem::take(bytes)).unwrap();
    assert!(text.contains(from), "{from}");
    *bytes = text.replace(from, to).into_bytes();
}

/// Puts one change into the files of a node.
fn edit(text: &mut Text, file: File, from: &str, to: &str) {
    match file {
        Flows => replaced(&mut text.flows, from, to),
        Groups => replaced(text.groups.as_mut().unwrap(), from, to),
        Ruleset => replaced(&mut text.ruleset, from, to),
    }
}

#[test]
fn each_hole_is_refuted() {
    let mut wrong = Vec::new();
    for (example, index, file, from, to, lemma) in BREAKS.iter().copied() {
        let meaning = meaning(example);
        let node = &meaning.nodes[index];
        let whole = prove(&meaning, index, &text(example, node));
        assert!(holds(&whole), "{example}: {whole:?}");
        assert!(whole.checked[lemma as usize] > 0, "{lemma:?} checks nothing in {example}");
        let mut broken = text(example, node);
        edit(&mut broken, file, from, to);
        let broken = prove(&meaning, index, &broken);
        let found: BTreeSet<Lemma> = broken.faults.iter().map(|(fault, _)| fault.lemma).collect();
        if !found.contains(&lemma) {
            wrong.push(format!("{example}: {from} -> {to}: {lemma:?} is not in {found:?}"));
        }
    }
    println!("{} breaks refuted", BREAKS.len() - wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Two nodes that both say something possible, but not the same.
#[test]
fn nodes_that_differ_about_an_egress_ip_are_refuted() {
    let meaning = meaning("egress-ips");
    let verdict = |edited: bool| {
        let nodes = meaning.nodes.iter().zip(0..).map(|(node, index)| {
            let mut text = text("egress-ips", node);
            if edited && index == 0 {
                let by = "nw_src=10.128.0.254 actions=move:NXM_NX_REG0[]->NXM_NX_TUN_ID[0..31],set_field:192.168.12.";
                edit(&mut text, Flows, &format!("{by}13"), &format!("{by}12"));
            }
            prove(&meaning, index, &text)
        });
        summary(&meaning, nodes.collect())
    };
    assert_eq!(verdict(false).findings.len(), 0);
    let refuted = verdict(true);
    assert_eq!((refuted.verdict, refuted.findings[0].lemma), (Verdict::Refuted, Lemma::L9));
}
