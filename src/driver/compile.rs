//! Compiles a model into an output tree, node by node on all cores.

use rayon::prelude::*;

use crate::diagnostic::{Diagnostic, Report, Sources};
use crate::emit::Renderer;
use crate::emit::output::Output;
use crate::intent::NodeId;
use crate::lower::{ClusterFlows, Plan};
use crate::model::Model;

/// Makes the files of `nodes` and hands them to `output`. Holds no more than one node's files a
/// core at a time. `done` hears of every node that is finished, on any thread.
pub fn compile(
    model: &Model,
    nodes: &[NodeId],
    sources: &Sources,
    output: &Output,
    check: bool,
    done: &(dyn Fn(&str) + Sync),
) -> Result<(), Report> {
    let common = ClusterFlows::new(model)?;
    let renderer = Renderer::new(model, sources)?;
    let results: Vec<Result<(), Diagnostic>> = nodes
        .par_iter()
        .map(|&node| {
            let plan = Plan::of(&common, node)?;
            let files = renderer.node(node, &plan)?;
            let name = model.intent()[node].name.as_str();
            output.node(name, files, check);
            done(name);
            Ok(())
        })
        .collect();
    let mut report = Report::new();
    results.into_iter().filter_map(Result::err).for_each(|diagnostic| report.push(diagnostic));
    if report.has_errors() { Err(report) } else { Ok(()) }
}
