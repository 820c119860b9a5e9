//! How lock, compile, prove and apply grow. Prints figures; decides nothing.
//!
//! `cargo bench` runs all of it; `cargo bench -- compile`, `-- prove`, `-- policies` or `-- apply` one part. The part
//! `apply` needs root and what the lab needs.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    unreachable_pub,
    reason = "a benchmark prints figures, and can't go on where something is missing"
)]

mod apply;
mod compile;
mod policies;
mod prove;
mod world;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let part = words.first().map(String::as_str);
    // Measures itself in a process of its own, for the memory.
    if let ["one", nodes, services, directory] =
        words.iter().map(String::as_str).collect::<Vec<_>>()[..]
    {
        let nodes = nodes.parse().expect("a number of nodes");
        compile::one(nodes, compile::services(services), directory.as_ref());
        return;
    }
    if let [what @ ("compiled" | "proven"), nodes, directory] =
        words.iter().map(String::as_str).collect::<Vec<_>>()[..]
    {
        let nodes = nodes.parse().expect("a number of nodes");
        let one = if what == "proven" { prove::proven } else { prove::compiled };
        one(nodes, directory.as_ref());
        return;
    }
    if let ["policies-of", number, directory] =
        words.iter().map(String::as_str).collect::<Vec<_>>()[..]
    {
        policies::one(number.parse().expect("a number"), directory.as_ref());
        return;
    }
    if matches!(part, None | Some("policies")) {
        policies::run();
    }
    if matches!(part, None | Some("compile")) {
        compile::run();
    }
    if matches!(part, None | Some("prove")) {
        prove::run();
    }
    if matches!(part, None | Some("apply")) {
        apply::run();
    }
}
