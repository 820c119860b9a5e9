//! Runs the tests of the desired state: each of its packets is asked for, but of those that are alike
//! only one.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use rayon::prelude::*;

use super::cells::{Classes, PROTOCOLS, as_ports, borders, outside_host, ports, ranges};
use super::question::{
    Directory, Question, Target, decide, headline, question, router_leads_to, sender,
};
use crate::diagnostic::{Code, Diagnostic};
use crate::intent::{Endpoint, PolicyTest, ProjectId, TestEnd, Verdict, Via, Workload};
use crate::model::Model;
use crate::value::{Port, Protocol};
use crate::verify::reach::{Destination, Reach, Source};

/// How a test went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How many packets were asked for; those that are alike count once.
    pub packets: u64,
    /// Why it failed, at the place of the test.
    pub failure: Option<Diagnostic>,
}

/// A sender or receiver that stands for those that are alike.
#[derive(Clone, Copy, Debug)]
struct Side {
    end: Endpoint,
    /// Another of the same class, where two are meant.
    second: Option<Workload>,
    class: Option<u32>,
}

/// What the tests of a model ask again and again.
struct Ground<'m> {
    model: &'m Model,
    directory: Directory,
    classes: Classes,
}

/// Runs all tests, in their order.
#[must_use]
pub fn run(model: &Model) -> Vec<Outcome> {
    let (directory, classes) = rayon::join(|| Directory::new(model), || Classes::new(model));
    let ground = Ground { model, directory, classes };
    model.intent().tests().par_iter().map(|test| ground.run(test)).collect()
}

impl Ground<'_> {
    fn run(&self, test: &PolicyTest) -> Outcome {
        let mut packets = 0;
        let failure = self.first_failure(test, &mut packets);
        let mut failure = failure.err();
        if failure.is_none() && packets == 0 {
            let message = format!("the test `{}` has no packet to try", test.name);
            let help = "name a port that the service has, or ends that are not the same";
            failure = Some(Diagnostic::new(Code::TestNothing, message).help(help));
        }
        let failure = failure.map(|diagnostic| match diagnostic.place {
            None => diagnostic.at(test.place),
            Some(_) => diagnostic,
        });
        Outcome { packets, failure }
    }

    fn first_failure(&self, test: &PolicyTest, packets: &mut u64) -> Result<(), Diagnostic> {
        let senders = self.sides(&test.from, test);
        for to in &test.to {
            match to {
                TestEnd::Named(Endpoint::Outside, _) => {
                    let all = (0, u32::MAX);
                    self.to_outside(test, &senders, all, packets)?;
                }
                TestEnd::Named(Endpoint::Network(network), _) => {
                    let range = (network.network().into(), network.broadcast().into());
                    self.to_outside(test, &senders, range, packets)?;
                }
                end => {
                    for to in self.sides(std::slice::from_ref(end), test) {
                        for from in &senders {
                            self.pair(test, *from, to, packets)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// One of each class, and all that are in none. What depends on the node or the egress IP of a
    /// sender is asked for each sender.
    fn sides(&self, ends: &[TestEnd], test: &PolicyTest) -> Vec<Side> {
        let each = test.via.is_some() || self.asks_nodes(test);
        let mut sides = Vec::new();
        let mut known: BTreeMap<u32, usize> = BTreeMap::new();
        let mut add = |end: Endpoint| {
            let workload = match end {
                Endpoint::Workload(workload) => Some(workload),
                _ => None,
            };
            let class = workload.and_then(|workload| self.classes.of(workload));
            if let Some(index) = class.filter(|_| !each).and_then(|class| known.get(&class)) {
                let side: &mut Side = &mut sides[*index];
                let first = Endpoint::Workload;
                if side.second.is_none()
                    && workload.is_some_and(|workload| first(workload) != side.end)
                {
                    side.second = workload;
                }
            } else {
                if let Some(class) = class {
                    known.insert(class, sides.len());
                }
                sides.push(Side { end, second: None, class });
            }
        };
        for end in ends {
            match end {
                TestEnd::Named(end, _) => add(*end),
                TestEnd::Pods(set) => {
                    set.pods(self.model.intent()).map(Endpoint::Workload).for_each(&mut add);
                }
            }
        }
        sides
    }

    /// Whether a test is about nodes, which treat their own pods otherwise.
    fn asks_nodes(&self, test: &PolicyTest) -> bool {
        let model = self.model;
        test.to.iter().any(|end| match end {
            TestEnd::Named(Endpoint::Node(_), _) => true,
            TestEnd::Named(Endpoint::Service(id), _) => {
                model.intent()[*id].ports.iter().any(|port| !port.endpoints.is_empty())
            }
            TestEnd::Named(Endpoint::Address(address), _) => {
                use super::question::Holder;
                let holder = self.directory.holder(model, *address);
                matches!(holder, Holder::Node(_) | Holder::Gateway(_) | Holder::Service(_))
            }
            _ => false,
        })
    }

    fn project(&self, end: Endpoint) -> Option<ProjectId> {
        match end {
            Endpoint::Workload(workload) => Some(self.model.project(workload)),
            Endpoint::Address(address) => match self.directory.holder(self.model, address) {
                super::question::Holder::Workload(workload) => Some(self.model.project(workload)),
                _ => None,
            },
            _ => None,
        }
    }

    fn pair(
        &self,
        test: &PolicyTest,
        from: Side,
        to: Side,
        packets: &mut u64,
    ) -> Result<(), Diagnostic> {
        // Nobody sends to itself by the network.
        let to = if from.end == to.end {
            match (from.second.or(to.second), from.class == to.class) {
                (Some(other), true) => Endpoint::Workload(other),
                _ => return Ok(()),
            }
        } else {
            to.end
        };
        if let (Some(Via::Router(router)), Endpoint::Address(address)) = (test.via, to) {
            return self.by_router(test, from.end, router, address, packets);
        }
        let (model, directory) = (self.model, &self.directory);
        let sends = sender(model, directory, from.end)?;
        for transport in self.transports(test, from.end, to) {
            let question = question(model, directory, sends, to, transport)?;
            self.ask(test, (from.end, to), &question, packets)?;
        }
        Ok(())
    }

    /// The ports that a test is about.
    fn transports(&self, test: &PolicyTest, from: Endpoint, to: Endpoint) -> Vec<(Protocol, Port)> {
        let fits = |protocol: Protocol| test.protocol.is_none_or(|wanted| wanted == protocol);
        if let Some(port) = test.port {
            return vec![(test.protocol.unwrap_or(Protocol::Tcp), port)];
        }
        if let Endpoint::Service(id) = to {
            let own = self.model.intent()[id].ports.iter();
            let own = own.filter(|port| fits(port.protocol));
            return own.map(|port| (port.protocol, port.port)).collect();
        }
        let (sends, gets) = (self.project(from), self.project(to));
        let all = PROTOCOLS.into_iter().filter(|protocol| fits(*protocol));
        all.flat_map(|protocol| {
            let mut borders = ports(self.model, sends, gets, protocol);
            if let Endpoint::Workload(Workload::Router(id)) = to {
                for port in self.model.intent()[id].mode.ports(protocol) {
                    borders.insert(port.get());
                    borders.extend(port.get().checked_add(1));
                }
            }
            if let Endpoint::Node(_) | Endpoint::Address(_) = to {
                self.node_borders(protocol, &mut borders);
            }
            as_ports(&borders).map(|port| (protocol, port)).collect::<Vec<_>>()
        })
        .collect()
    }

    /// The ports of nodes at which something begins or ends.
    fn node_borders(&self, protocol: Protocol, borders: &mut std::collections::BTreeSet<u16>) {
        let model = self.model;
        let served = model.node_ports().iter().filter(|port| port.protocol == protocol);
        let cluster = model.intent().cluster();
        let access = cluster.node_access.iter().filter(|access| access.protocol == protocol);
        let single = served.map(|port| port.port).chain([Port::DNS, cluster.vxlan_port]);
        let single = single.map(|port| (port.get(), port.get()));
        for (first, last) in
            single.chain(access.map(|access| (*access.ports.start(), *access.ports.end())))
        {
            borders.insert(first.max(1));
            borders.extend(last.checked_add(1));
        }
    }

    /// Every address outside in a range, by one of each cell.
    fn to_outside(
        &self,
        test: &PolicyTest,
        senders: &[Side],
        (first, last): (u32, u32),
        packets: &mut u64,
    ) -> Result<(), Diagnostic> {
        let (model, directory) = (self.model, &self.directory);
        for from in senders {
            let sends = sender(model, directory, from.end)?;
            let cuts = match self.project(from.end) {
                Some(project) => borders(model, project),
                None => std::collections::BTreeSet::from([0]),
            };
            for (low, high) in ranges(&cuts) {
                let (low, high) = (low.max(first), high.min(last));
                if low > high {
                    continue;
                }
                let Some(host) = outside_host(&[(model, directory)], (low, high)) else { continue };
                let to = Endpoint::Address(host);
                for transport in self.transports(test, from.end, to) {
                    let question = question(model, directory, sends, to, transport)?;
                    self.ask(test, (from.end, to), &question, packets)?;
                }
            }
        }
        Ok(())
    }

    /// A packet to an egress router, which has to lead to the address.
    fn by_router(
        &self,
        test: &PolicyTest,
        from: Endpoint,
        router: crate::intent::RouterId,
        address: Ipv4Addr,
        packets: &mut u64,
    ) -> Result<(), Diagnostic> {
        let (model, directory) = (self.model, &self.directory);
        let to = Endpoint::Workload(Workload::Router(router));
        let sends = sender(model, directory, from)?;
        for transport in self.transports(test, from, to) {
            let question = question(model, directory, sends, to, transport)?;
            self.ask(test, (from, to), &question, packets)?;
            let leads = router_leads_to(model, router, transport);
            if leads.rsplit_once(':').map(|(to, _)| to) != Some(&address.to_string()) {
                let reach = decide(model, &question);
                let wrong = format!("the egress router leads to {leads}, not to {address}");
                return Err(self.failure(test, (from, to), &question, &reach, &wrong));
            }
        }
        Ok(())
    }

    fn ask(
        &self,
        test: &PolicyTest,
        ends: (Endpoint, Endpoint),
        question: &Question,
        packets: &mut u64,
    ) -> Result<(), Diagnostic> {
        *packets += 1;
        let reach = decide(self.model, question);
        let right = match test.expect {
            Verdict::Allow => reach.allowed(),
            Verdict::Deny => !reach.allowed() && !reach.sometimes,
        };
        if !right {
            let wanted = match test.expect {
                Verdict::Allow => "it has to arrive",
                Verdict::Deny => "it must not arrive",
            };
            return Err(self.failure(test, ends, question, &reach, wanted));
        }
        let seen = match test.via {
            Some(Via::Node(node)) => self.model.intent()[node].address,
            Some(Via::Address(address)) => address,
            Some(Via::Router(_)) | None => return Ok(()),
        };
        let (Source::Workload(workload), Target::One(Destination::Outside(_))) =
            (question.from, question.to)
        else {
            return Ok(());
        };
        let by = self.model.external_source(workload);
        if by == seen {
            return Ok(());
        }
        let wrong = format!("the other side sees {by}, not {seen}");
        Err(self.failure(test, ends, question, &reach, &wrong))
    }

    fn failure(
        &self,
        test: &PolicyTest,
        (from, to): (Endpoint, Endpoint),
        question: &Question,
        reach: &Reach,
        wrong: &str,
    ) -> Diagnostic {
        let intent = self.model.intent();
        let (from, to) = (from.name(intent), to.name(intent));
        let headline = headline(reach, (&from, &to), question);
        let message = format!("the test `{}` fails: {headline}, but {wrong}", test.name);
        let Question { port, protocol, .. } = question;
        let help = format!("`ringfence why {from} {to}:{port}/{protocol}` shows the whole way");
        let diagnostic = Diagnostic::new(Code::TestFailed, message).at(test.place).help(help);
        match reach.place {
            Some(place) => diagnostic.related(place, "this decides"),
            None => diagnostic,
        }
    }
}
