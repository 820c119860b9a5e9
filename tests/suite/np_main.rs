#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]
mod lab;
mod network_policies;
mod properties;
mod support;
mod world;
impl From<std::process::Output> for support::Run {
    fn from(o: std::process::Output) -> Self {
        Self { stdout: String::from_utf8(o.stdout).unwrap(), stderr: String::from_utf8(o.stderr).unwrap(), status: o.status.code().unwrap() }
    }
}
