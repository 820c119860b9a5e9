//! All integration tests in one program: it links once and shares its helpers.

mod diagnostics;
mod golden;
mod schema;
mod support;
