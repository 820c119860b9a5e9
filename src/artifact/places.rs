//! `places.json`: where the objects of a node are defined, for people.
//!
//! It goes to the node beside the files, and is no part of what is reviewed, digested or executed.
//! Nothing but the words that a command prints depends on it, so what is amiss in it is left out.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::manifest::Manifest;

/// The BLAKE3 digests of the inputs, by their paths from the root of the desired state.
pub type Inputs = BTreeMap<String, String>;

/// The places of the objects of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Places {
    /// The version of this format.
    version: u32,
    /// The generation that they belong to.
    generation: String,
    /// What they were found in.
    #[serde(default)]
    inputs: Inputs,
    /// By the names of the objects, `file:line:column`.
    #[serde(rename = "places")]
    by_object: BTreeMap<String, String>,
}

/// The longest place that is believed.
const LONGEST: usize = 4096;

impl Places {
    /// The version of the format that this ringfence writes and reads.
    pub const VERSION: u32 = 1;

    /// The places in a file, if it is one of this generation.
    #[must_use]
    pub fn parse(bytes: &[u8], generation: &str) -> Option<Self> {
        let places: Self = serde_json::from_slice(bytes).ok()?;
        let ours = places.version == Self::VERSION && places.generation == generation;
        ours.then_some(places)
    }

    /// The start of a file, up to the places.
    #[must_use]
    pub(crate) fn head(manifest: &Manifest, inputs: &Inputs) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let inputs: Vec<String> = inputs
            .iter()
            .map(|(path, digest)| format!("{}: {}", quoted(path), quoted(digest)))
            .collect();
        format!(
            "{{\n\"version\": {},\n\"generation\": {},\n\"inputs\": {{\n{}\n}},\n\"places\": {{\n",
            Self::VERSION,
            quoted(&manifest.generation),
            inputs.join(",\n"),
        )
    }

    /// What they were found in.
    #[must_use]
    pub fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    /// The objects whose names begin so, with their places.
    pub fn beginning(&self, name: &str) -> impl Iterator<Item = (&str, &str)> {
        let objects = self.by_object.keys().filter(move |object| object.starts_with(name));
        objects.filter_map(|object| Some((object.as_str(), self.get(object)?)))
    }

    /// The place of an object, if it is known and fit to be printed.
    #[must_use]
    pub fn get(&self, object: &str) -> Option<&str> {
        let place = self.by_object.get(object)?;
        let fit = place.len() <= LONGEST && !place.contains(char::is_control);
        fit.then_some(place.as_str())
    }
}
