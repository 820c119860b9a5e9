//! Every diagnostic has an example in `tests/diagnostics`, with exactly what it prints.
//!
//! A case is a directory named for its code. `command` holds the words of the command line
//! (default: `validate network.yaml`), `expected` what it prints and how it ends.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::support::{Run, assert_none, compare, directories, ringfence, root};
use ringfence::diagnostic::Code;

fn transcript(case: &Path) -> String {
    let command = fs::read_to_string(case.join("command"));
    let command = command.unwrap_or_else(|_| "validate network.yaml".to_owned());
    let words: Vec<&str> = command.split_whitespace().collect();
    let Run { stdout, stderr, status } = ringfence(case, &words);
    let mut text = format!("$ ringfence {}\n", words.join(" "));
    for (name, printed) in [("standard output", stdout), ("standard error", stderr)] {
        if !printed.is_empty() {
            let _ = write!(text, "--- {name}\n{printed}");
        }
    }
    let _ = writeln!(text, "--- exit status {status}");
    text
}

#[test]
fn every_case_prints_exactly_what_it_should() {
    let mut wrong = Vec::new();
    for case in directories(&root().join("tests/diagnostics")) {
        let text = transcript(&case);
        wrong.extend(compare(&case.join("expected"), text.as_bytes()));
        let code = case.file_name().unwrap().to_str().unwrap().split('-').next().unwrap();
        let forms = [format!("[{code}]"), format!("\"{code}\""), format!("title={code}:")];
        if !forms.iter().any(|form| text.contains(form)) {
            wrong.push(format!("{} doesn't print {code}", case.display()));
        }
    }
    assert_none(&wrong);
}

/// Codes that no command line alone can show, and where they are tested instead.
const ELSEWHERE: [(Code, &str); 36] = [
    (Code::NoMeaning, "proof.rs"),
    (Code::NotSigned, "signatures.rs"),
    (Code::SignersUnusable, "signatures.rs"),
    (Code::GatewayBridge, "gateway.rs"),
    (Code::NameFails, "names.rs"),
    (Code::NameKept, "names.rs"),
    (Code::NameManyAddresses, "names.rs"),
    (Code::NoNameServers, "names.rs"),
    (Code::RolledBack, "generations.rs"),
    (Code::RollbackFailed, "generations.rs"),
    (Code::NoGeneration, "generations.rs"),
    (Code::NotConfirmed, "confirm.rs"),
    (Code::HealthCheck, "confirm.rs"),
    (Code::NothingToConfirm, "confirm.rs"),
    (Code::SymbolicLink, "faults.rs"),
    (Code::NotRoot, "faults.rs"),
    (Code::ToolMissing, "faults.rs"),
    (Code::NotOutputDirectory, "faults.rs"),
    (Code::Tampered, "faults.rs"),
    (Code::WrongNode, "faults.rs"),
    (Code::OvsNotRunning, "faults.rs"),
    (Code::NotOurs, "faults.rs"),
    (Code::Locked, "faults.rs"),
    (Code::CommandFailed, "faults.rs"),
    (Code::ReadBack, "faults.rs"),
    (Code::StateUnusable, "faults.rs"),
    (Code::ForeignNetwork, "others.rs"),
    (Code::AddressAnswers, "others.rs"),
    (Code::DatapathUnusable, "others.rs"),
    (Code::ForeignOnBridge, "foreign_objects.rs"),
    (Code::NotMovable, "gateway_uplink.rs"),
    (Code::UplinkTaken, "gateway_uplink.rs"),
    (Code::LabSetup, "faults.rs"),
    (Code::LabDiffers, "faults.rs"),
    (Code::LabNotRunning, "lab.rs"),
    (Code::NetworkPolicyTooLarge, "network_policies/counts.rs"),
];

/// A fault of ringfence's own, which no test can show as long as there is none.
const NOWHERE: [Code; 1] = [Code::Internal];

#[test]
fn every_code_has_a_case() {
    let cases: BTreeSet<String> = directories(&root().join("tests/diagnostics"))
        .iter()
        .map(|case| case.file_name().unwrap().to_str().unwrap().split('-').next().unwrap().into())
        .collect();
    let mut wrong = Vec::new();
    for code in Code::ALL {
        let elsewhere = ELSEWHERE.iter().find(|(other, _)| other == code);
        let places = [
            cases.contains(&code.to_string()),
            elsewhere.is_some_and(|(_, file)| {
                let path = root().join("tests/suite").join(file);
                fs::read_to_string(path).unwrap().contains(&code.to_string())
            }),
            NOWHERE.contains(code),
        ];
        let number = places.iter().filter(|place| **place).count();
        if number != 1 || (elsewhere.is_some() && !places[1]) {
            wrong.push(format!("{code} has {number} places"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}
