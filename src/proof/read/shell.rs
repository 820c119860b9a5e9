//! The scripts that wire a node, as commands: a line each, without comments and indentation, and
//! with what a backslash continues put together.

use super::Unread;

/// A command and the line that it begins in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The line, from 1.
    pub line: usize,
    /// Its text.
    pub text: String,
}

/// Reads a script.
pub fn read(file: &str, text: &[u8]) -> Result<Vec<Command>, Unread> {
    let text = std::str::from_utf8(text).map_err(|_| Unread::new(file, 0, "not UTF-8"))?;
    let mut commands: Vec<Command> = Vec::new();
    let mut goes_on = false;
    for (line, full) in (1..).zip(text.lines()) {
        let plain = full.trim();
        if !goes_on && (plain.is_empty() || plain.starts_with('#')) {
            continue;
        }
        let (part, next) = match plain.strip_suffix('\\') {
            Some(part) => (part.trim_end(), true),
            None => (plain, false),
        };
        match commands.last_mut().filter(|_| goes_on) {
            Some(command) => {
                command.text.push(' ');
                command.text.push_str(part);
            }
            None => commands.push(Command { line, text: part.to_owned() }),
        }
        goes_on = next;
    }
    Ok(commands)
}
