//! `ringfence explain`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Exit, print, show};
use crate::artifact::layout::SOURCEMAP;
use crate::dataplane::openflow::group_number;
use crate::dataplane::origin::Cookie;
use crate::diagnostic::Sources;
use crate::diagnostic::{Code, Diagnostic, quoted};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A code such as RF012, a cookie such as 0x1f3a9c0d2b44aabb of a flow or nft rule, or the
    /// number of a group
    subject: String,
    /// The output directory, or that of one node, whose source map to look in
    #[arg(long, default_value = "out", value_name = "DIR")]
    out: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let subject = arguments.subject.as_str();
    let result = match (subject.parse::<Code>(), Cookie::parse(subject)) {
        (Ok(code), _) => {
            print(&format!("{code}: {}\n\n{}\n", code.title(), code.explanation()));
            return Exit::Done;
        }
        (_, Some(cookie)) => {
            let what = format!("flow or rule in `{}` has the cookie", arguments.out.display());
            find(&|other| other == cookie, cookie, &what, &arguments.out)
        }
        _ if subject.parse::<u32>().is_ok() => {
            let what =
                format!("group of a service in `{}` has the number", arguments.out.display());
            let is = |cookie| group_number(cookie).to_string() == subject;
            find(&is, subject, &what, &arguments.out)
        }
        _ => Err(unknown_code(subject)),
    };
    match result {
        Ok(found) => {
            print(&found);
            Exit::Done
        }
        Err(diagnostic) => {
            show(&diagnostic.into(), &Sources::default());
            Exit::Error
        }
    }
}

fn unknown_code(text: &str) -> Diagnostic {
    let is_code = text.get(..2).is_some_and(|head| head.eq_ignore_ascii_case("RF"));
    let message = if is_code {
        format!("there is no code {}", quoted(text))
    } else {
        format!("{} is neither a code nor a cookie", quoted(text))
    };
    Diagnostic::new(Code::CookieUnknown, message)
        .help("codes are RF and three digits, cookies begin with 0x")
}

/// The object of a cookie, from the source maps of a node's directory or of all nodes'.
fn find(
    is: &dyn Fn(Cookie) -> bool,
    cookie: impl std::fmt::Display,
    what: &str,
    out: &Path,
) -> Result<String, Diagnostic> {
    let mut maps = vec![out.join(SOURCEMAP)];
    if let Ok(entries) = out.read_dir() {
        maps.extend(entries.flatten().map(|entry| entry.path().join(SOURCEMAP)));
    }
    let mut found: BTreeSet<(String, String)> = BTreeSet::new();
    let mut any = false;
    for path in maps {
        let Ok(bytes) = std::fs::read(&path) else { continue };
        any = true;
        let map: BTreeMap<Cookie, (String, String)> =
            serde_json::from_slice(&bytes).map_err(|error| {
                let message = format!("`{}` is no source map: {error}", path.display());
                Diagnostic::new(Code::CookieUnknown, message).help("compile again")
            })?;
        found.extend(map.into_iter().filter(|(cookie, _)| is(*cookie)).map(|(_, at)| at));
    }
    if found.is_empty() {
        let message = if any {
            format!("no {what} {cookie}")
        } else {
            format!("there is no sourcemap.json in `{}` or below", out.display())
        };
        return Err(Diagnostic::new(Code::CookieUnknown, message).help(
            "name the output directory with --out, compiled from the generation in question",
        ));
    }
    let lines = found.into_iter().map(|(object, at)| format!("{cookie}: {object}\n  at {at}\n"));
    Ok(lines.collect::<Vec<_>>().concat())
}
