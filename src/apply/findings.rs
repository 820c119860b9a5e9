//! What stands on a node beside what ringfence manages, and matters to it.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use crate::diagnostic::Code;

/// Something of others that ringfence leaves alone and somebody should look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Finding {
    /// The code with which applying anything is refused because of it; none where it is only told.
    pub code: Option<String>,
    /// What it is, in a sentence.
    pub message: String,
}

impl Finding {
    /// One that is only told.
    pub(super) fn told(message: impl Into<String>) -> Self {
        Self { code: None, message: message.into() }
    }

    /// One for which a change would be refused.
    pub(super) fn refused(code: Code, message: impl Into<String>) -> Self {
        Self { code: Some(code.to_string()), message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.code {
            Some(code) => write!(f, "! {}; apply refuses with {code}", self.message),
            None => write!(f, "! {}", self.message),
        }
    }
}
