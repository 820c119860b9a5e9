//! Compiles a model into an output tree, node by node on all cores.

use rayon::prelude::*;

use crate::diagnostic::{Diagnostic, Report};
use crate::intent::NodeId;
use crate::model::Model;
use crate::output::Output;
use crate::plan::Plan;
use crate::render::{NodeFiles, Renderer};
use crate::source::Sources;

/// Makes the files of `nodes` and hands them to `output`. Holds no more than one node's files a
/// core at a time.
pub fn compile(
    model: &Model,
    nodes: &[NodeId],
    sources: &Sources,
    output: &Output,
    check: bool,
) -> Result<(), Report> {
    let renderer = Renderer::new()?;
    let results: Vec<Result<(), Diagnostic>> = nodes
        .par_iter()
        .map(|&node| {
            let files = files(&renderer, model, node, sources)?;
            output.node(model.intent()[node].name.as_str(), files, check);
            Ok(())
        })
        .collect();
    let mut report = Report::new();
    results.into_iter().filter_map(Result::err).for_each(|diagnostic| report.push(diagnostic));
    if report.has_errors() { Err(report) } else { Ok(()) }
}

/// The files of one node.
pub fn files(
    renderer: &Renderer,
    model: &Model,
    node: NodeId,
    sources: &Sources,
) -> Result<NodeFiles, Diagnostic> {
    let plan = Plan::of(model, node)?;
    renderer.node(model, node, &plan, sources)
}
