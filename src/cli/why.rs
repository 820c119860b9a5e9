//! `ringfence why`.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Exit, fail, print, show};
use crate::answer::capture::{self, Line};
use crate::answer::emitted::{self, Followed};
use crate::answer::path::{Fabric, Way};
use crate::answer::question::{Directory, Question, decide, headline, question, sender};
use crate::diagnostic::{Code, Diagnostic, Sources, json, quoted};
use crate::driver::load::Loaded;
use crate::intent::Endpoint;
use crate::lower::ClusterFlows;
use crate::model::Model;
use crate::value::{Port, Protocol};
use crate::verify::reach::Reach;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Who sends: project/pod, an egress router, a node, an address of one of them, or `outside`
    from: String,
    /// Whom it is for: project/pod, project/service, a node, an egress router, an address or
    /// `outside`; with :PORT or :PORT/PROTOCOL behind it [default: port 80 of TCP, or the first port of
    /// a service]
    to: String,
    /// Files, directories (their *.yaml and *.yml), or - for standard input
    #[arg(default_value = ".", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The lock file [default: ringfence.lock beside the desired state]
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
    /// Follow the packet through the files that `compile` wrote, too
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the command lines of tcpdump and iperf3 for both ends and the tunnel
    #[arg(long)]
    capture: bool,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

/// What `why` prints with --json.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Why {
    /// Who sends.
    from: String,
    /// Whom it is for.
    to: String,
    /// The destination address.
    address: String,
    /// The protocol.
    protocol: String,
    /// The destination port.
    port: u16,
    /// What becomes of the packet.
    verdict: WhyVerdict,
    /// What decides about it.
    because: String,
    /// Where that is written, as `file:line:column`.
    place: Option<String>,
    /// The steps of the packet.
    request: Vec<WhyStep>,
    /// The steps of the answer, where the packet arrives.
    reply: Option<Vec<WhyStep>>,
    /// The flows of the files that the packet meets, with --out.
    files: Option<Vec<WhyFlow>>,
    /// Whether the files do what the desired state says, with --out.
    files_agree: Option<bool>,
    /// Command lines that show the packet, with --capture.
    capture: Option<Vec<WhyCommand>>,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WhyVerdict {
    /// It arrives.
    Allowed,
    /// It arrives at some of those behind a service, and not at others.
    Sometimes,
    /// It doesn't arrive, and the sender is told.
    Refused,
    /// It doesn't arrive.
    Denied,
}

/// A step of a packet.
#[derive(Debug, Serialize, JsonSchema)]
pub struct WhyStep {
    /// The node.
    node: String,
    /// Where on it.
    at: String,
    /// The object that decides there.
    object: String,
    /// Where that is defined.
    place: Option<String>,
    /// What happens, where it is more than going on.
    effect: Option<String>,
    /// The flow.
    flow: Option<String>,
}

/// A flow of a file.
#[derive(Debug, Serialize, JsonSchema)]
pub struct WhyFlow {
    /// The file and line.
    at: String,
    /// The table.
    table: u8,
    /// The object that it stands for.
    object: String,
    /// Where that is defined.
    place: Option<String>,
    /// The flow.
    flow: String,
}

/// A command line.
#[derive(Debug, Serialize, JsonSchema)]
pub struct WhyCommand {
    /// The node to run it on; `null` for a host outside.
    node: Option<String>,
    /// What it shows.
    what: String,
    /// The command.
    command: String,
}

/// Everything that is known of a packet.
struct Answer {
    names: (String, String),
    question: Question,
    reach: Reach,
    request: Way,
    reply: Option<Way>,
    files: Option<(Followed, bool)>,
    capture: Option<Vec<Line>>,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let loaded = Loaded::read(&arguments.paths, arguments.lock.as_deref(), &mut std::io::stdin());
    let (model, sources, _) = match loaded.draft() {
        Ok(loaded) => loaded,
        Err((sources, report)) => return fail(arguments.json, &report, &sources),
    };
    match answer(arguments, &model) {
        Ok(answer) => {
            if arguments.json {
                print(&json::pretty(&printed(&answer, &model, &sources)));
            } else {
                print(&human(&answer, &model, &sources));
            }
            match answer.files {
                Some((_, false)) => {
                    let message = "the files do something else than the desired state says";
                    let help = "compile the desired state, or run `ringfence prove`";
                    let found = Diagnostic::new(Code::FilesDiffer, message).help(help);
                    if !arguments.json {
                        show(&found.into(), &sources);
                    }
                    Exit::Differs
                }
                _ => Exit::Done,
            }
        }
        Err(found) => fail(arguments.json, &found.into(), &sources),
    }
}

fn answer(arguments: &Arguments, model: &Model) -> Result<Answer, Diagnostic> {
    let intent = model.intent();
    let (to, ports) = match arguments.to.split_once(':') {
        Some((to, ports)) => (to, Some(ports)),
        None => (arguments.to.as_str(), None),
    };
    let from = Endpoint::find(intent, &arguments.from, true)?;
    let to = Endpoint::find(intent, to, false)?;
    if let Endpoint::Network(network) = to {
        let message = format!("`{network}` is a network, and a packet has one destination");
        return Err(Diagnostic::new(Code::EndpointUnusable, message)
            .help("write one address of it; tests take networks"));
    }
    let directory = Directory::new(model);
    let sends = sender(model, &directory, from)?;
    let transport = match ports {
        Some(text) => transport(text)?,
        None => default_port(model, to),
    };
    let question = question(model, &directory, sends, to, transport)?;
    let reach = decide(model, &question);
    let common = ClusterFlows::new(model)?;
    let mut fabric = Fabric::new(&common);
    let request = fabric.request(&question, &reach)?;
    let reply =
        if reach.allowed() || reach.sometimes { fabric.reply(&question, &request)? } else { None };
    let files = match &arguments.out {
        Some(out) => {
            let followed = emitted::follow(model, out, &question)?;
            let agrees = followed.arrival == request.arrival;
            Some((followed, agrees))
        }
        None => None,
    };
    let capture = arguments.capture.then(|| capture::lines(model, &question, &request));
    let names = (from.name(intent), to.name(intent));
    Ok(Answer { names, question, reach, request, reply, files, capture })
}

/// `PORT` or `PORT/PROTOCOL`.
fn transport(text: &str) -> Result<(Protocol, Port), Diagnostic> {
    let bad = |help: &str| {
        let message = format!("{} is no port", quoted(text));
        Diagnostic::new(Code::EndpointUnusable, message).help(help)
    };
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return Err(bad("the protocols with ports are tcp, udp and sctp: `53/udp`")),
    };
    let number: u64 =
        number.parse().map_err(|_| bad("write a number, as in `:443` or `:53/udp`"))?;
    let port = Port::new(number).map_err(|_| bad("ports are numbers from 1 to 65535"))?;
    Ok((protocol, port))
}

fn default_port(model: &Model, to: Endpoint) -> (Protocol, Port) {
    if let Endpoint::Service(id) = to
        && let Some(first) = model.intent()[id].ports.first()
    {
        return (first.protocol, first.port);
    }
    (Protocol::Tcp, Port::HTTP)
}

fn verdict(reach: &Reach) -> WhyVerdict {
    match reach {
        _ if reach.allowed() => WhyVerdict::Allowed,
        _ if reach.sometimes => WhyVerdict::Sometimes,
        _ if reach.refused => WhyVerdict::Refused,
        _ => WhyVerdict::Denied,
    }
}

fn printed(answer: &Answer, model: &Model, sources: &Sources) -> Why {
    let steps = |way: &Way| {
        let step = |step: &crate::answer::path::Step| WhyStep {
            node: model.intent()[step.node].name.to_string(),
            at: step.at.clone(),
            object: step.object.clone(),
            place: step.place.map(|place| sources.position(place)),
            effect: step.effect.clone(),
            flow: step.flow.clone(),
        };
        way.steps.iter().map(step).collect()
    };
    let Question { address, protocol, port, .. } = answer.question;
    Why {
        from: answer.names.0.clone(),
        to: answer.names.1.clone(),
        address: address.to_string(),
        protocol: protocol.to_string(),
        port: port.get(),
        verdict: verdict(&answer.reach),
        because: answer.reach.because.clone(),
        place: answer.reach.place.map(|place| sources.position(place)),
        request: steps(&answer.request),
        reply: answer.reply.as_ref().map(steps),
        files: answer.files.as_ref().map(|(followed, _)| {
            let flow = |met: &emitted::Met| WhyFlow {
                at: met.at.clone(),
                table: met.table,
                object: met.object.clone(),
                place: met.place.clone(),
                flow: met.flow.clone(),
            };
            followed.flows.iter().map(flow).collect()
        }),
        files_agree: answer.files.as_ref().map(|(_, agrees)| *agrees),
        capture: answer.capture.as_ref().map(|lines| {
            let line = |line: &Line| WhyCommand {
                node: line.node.map(|node| model.intent()[node].name.to_string()),
                what: line.what.to_owned(),
                command: line.command.clone(),
            };
            lines.iter().map(line).collect()
        }),
    }
}

fn human(answer: &Answer, model: &Model, sources: &Sources) -> String {
    let names = (answer.names.0.as_str(), answer.names.1.as_str());
    let mut text = headline(&answer.reach, names, &answer.question);
    text.push('\n');
    if let Some(place) = answer.reach.place {
        let _ = writeln!(text, "  at {}: {}", sources.position(place), sources.line(place).trim());
    }
    write_way(&mut text, "request", &answer.request, model, sources);
    if let Some(reply) = &answer.reply {
        write_way(&mut text, "reply", reply, model, sources);
    }
    if let Some((followed, agrees)) = &answer.files {
        let same = if *agrees { "as the desired state says" } else { "DIFFERENT" };
        let _ = writeln!(text, "\nfiles ({same})");
        let width = followed.flows.iter().map(|met| met.at.len()).max().unwrap_or(0);
        for met in &followed.flows {
            let place = met.place.as_deref().map(|place| format!(" ({place})")).unwrap_or_default();
            let _ = writeln!(
                text,
                "  {:width$}  table {:<3}  {}{place}",
                met.at, met.table, met.object
            );
        }
        let end = match followed.arrival {
            None => "drop".to_owned(),
            Some(arrival) => match arrival.workload {
                Some(workload) => format!("to {}", model.workload_subject(workload).name),
                None => format!("to the node {}", model.intent()[arrival.node].name),
            },
        };
        let _ = writeln!(text, "  -> {end}");
    }
    if let Some(lines) = &answer.capture {
        text.push_str("\ncapture\n");
        for line in lines {
            let node = line.node.map_or("a host outside".to_owned(), |node| {
                format!("on {}", model.intent()[node].name)
            });
            let _ = writeln!(text, "  # {node}: {}\n  {}", line.what, line.command);
        }
    }
    text
}

fn write_way(text: &mut String, title: &str, way: &Way, model: &Model, sources: &Sources) {
    if way.steps.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{title}");
    let node = |step: &crate::answer::path::Step| model.intent()[step.node].name.as_str();
    let place = |step: &crate::answer::path::Step| match step.place {
        Some(place) => sources.position(place),
        None => "by default".to_owned(),
    };
    let widths = way.steps.iter().fold([0; 3], |[a, b, c], step| {
        [a.max(node(step).len()), b.max(step.at.len()), c.max(step.object.len())]
    });
    for step in &way.steps {
        let mut line = format!(
            "  {:a$}  {:b$}  {:c$}  {}",
            node(step),
            step.at,
            step.object,
            place(step),
            a = widths[0],
            b = widths[1],
            c = widths[2]
        );
        if let Some(effect) = &step.effect {
            let _ = write!(line, "  -> {effect}");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
}
