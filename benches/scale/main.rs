//! How lock, compile and apply grow. Prints figures; decides nothing.
//!
//! `cargo bench` runs all of it; `cargo bench -- compile` or `-- apply` one part. The part
//! `apply` needs root and what the lab needs.

mod apply;
mod compile;
mod world;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let part = words.first().map(String::as_str);
    // Measures itself in a process of its own, for the memory.
    if let (Some("one"), Some(nodes)) = (part, words.get(1)) {
        compile::one(nodes.parse().expect("a number of nodes"));
        return;
    }
    if matches!(part, None | Some("compile")) {
        compile::run();
    }
    if matches!(part, None | Some("apply")) {
        apply::run();
    }
}
