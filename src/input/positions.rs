//! Line and column of every node of a YAML text.
//!
//! [`Positions`] mirrors the nodes of a text without their values. [`Cursor`] walks it in step with
//! the typed values that serde made of the same text.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use crate::diagnostic::{Code, Diagnostic, Place, Report, quoted};

/// The deepest nesting that a document may have. The schema needs 8.
const MAX_DEPTH: usize = 64;
/// The most nodes that a text may have, counting what aliases repeat each time.
pub(super) const MAX_NODES: usize = 8_000_000;
/// The most bytes of one string. The longest that the schema takes, a label's key, has 317.
const MAX_STRING: usize = 4096;

/// How many values that are nothing are told of, where the schema doesn't tell of them.
const SHOWN: usize = 100;

const NONE: u32 = u32::MAX;

/// The positions of all documents of one text.
#[derive(Debug, Default)]
pub struct Positions {
    source: u32,
    nodes: Vec<Node>,
    keys: Vec<String>,
    roots: Vec<u32>,
    /// The values that are nothing.
    nulls: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    line: u32,
    column: u32,
    length: u32,
    /// The node that is this value's key, if it stands in a mapping.
    key: u32,
    /// Index into `keys` where this node is a key itself.
    text: u32,
    first_child: u32,
    next_sibling: u32,
}

impl Positions {
    /// Reads the positions of a text.
    pub fn read(source: u32, text: &str) -> Result<Self, Report> {
        Builder::new(source).read(text)
    }

    /// Whether a key or an item of a list has no value. The types read some of these as empty.
    pub(super) fn has_nulls(&self) -> bool {
        !self.nulls.is_empty()
    }

    /// One diagnostic for each of the first of these, for where the schema can't say what is missing.
    pub(super) fn nulls(&self) -> Report {
        let nothing = |&node: &u32| {
            Diagnostic::new(Code::WrongType, "expected a value, found nothing")
                .at(Cursor { positions: self, node }.key_place())
                .help("give it a value, or remove it if it may be left out")
        };
        let mut report = Report::new();
        self.nulls.iter().take(SHOWN).map(nothing).for_each(|found| report.push(found));
        report
    }

    /// The top of each document, in order.
    pub fn documents(&self) -> impl Iterator<Item = Cursor<'_>> {
        self.roots.iter().map(|&node| Cursor { positions: self, node })
    }

    /// One diagnostic for each duplicate key of a mapping.
    #[must_use]
    pub fn duplicate_keys(&self) -> Report {
        let mut report = Report::new();
        for (parent, node) in self.nodes.iter().enumerate() {
            let mut seen: BTreeMap<u32, u32> = BTreeMap::new();
            let parent = Cursor { positions: self, node: u32::try_from(parent).unwrap_or(NONE) };
            if node.first_child == NONE || self.nodes[node.first_child as usize].key == NONE {
                continue;
            }
            for child in parent.children() {
                let key = self.nodes[child.node as usize].key;
                let text = self.nodes[key as usize].text;
                if let Some(&first) = seen.get(&text) {
                    let name = quoted(&self.keys[text as usize]);
                    report.push(
                        Diagnostic::new(Code::DuplicateKey, format!("duplicate key {name}"))
                            .at(self.place(key))
                            .related(self.place(first), "first here")
                            .help("remove one of the two, or put both values into one"),
                    );
                } else {
                    seen.insert(text, key);
                }
            }
        }
        report
    }

    /// Takes the node at `pointer` in the document numbered `document` out of its mapping or
    /// sequence, so that the nodes after it move up.
    pub(super) fn remove(&mut self, document: usize, pointer: &str) {
        let Some(root) = self.documents().nth(document) else { return };
        let Some((parent, _)) = pointer.rsplit_once('/') else { return };
        let (parent, removed) = (root.pointer(parent).node, root.pointer(pointer).node);
        let after = self.nodes[removed as usize].next_sibling;
        let mut link = self.nodes[parent as usize].first_child;
        if link == removed {
            self.nodes[parent as usize].first_child = after;
        }
        while link != NONE {
            let next = self.nodes[link as usize].next_sibling;
            if next == removed {
                self.nodes[link as usize].next_sibling = after;
            }
            link = next;
        }
    }

    fn place(&self, node: u32) -> Place {
        let node = self.nodes[node as usize];
        Place { source: self.source, line: node.line, column: node.column, length: node.length }
    }
}

/// A node of the input, by its position.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    positions: &'a Positions,
    node: u32,
}

impl<'a> Cursor<'a> {
    /// Where the node begins.
    #[must_use]
    pub fn place(self) -> Place {
        self.positions.place(self.node)
    }

    /// The value of a key, or this node where the key is absent.
    #[must_use]
    pub fn key(self, name: &str) -> Self {
        self.find(name).unwrap_or(self)
    }

    /// The value of a key.
    #[must_use]
    pub fn find(self, name: &str) -> Option<Self> {
        self.children().find(|child| child.key_text() == Some(name))
    }

    /// Where the key of this value stands; the value itself in a sequence.
    #[must_use]
    pub fn key_place(self) -> Place {
        let key = self.positions.nodes[self.node as usize].key;
        self.positions.place(if key == NONE { self.node } else { key })
    }

    /// The item numbered `index` of a sequence, or this node where there are fewer.
    #[must_use]
    pub fn item(self, index: usize) -> Self {
        self.children().nth(index).unwrap_or(self)
    }

    /// Follows a JSON pointer as far as it leads.
    #[must_use]
    pub fn pointer(self, pointer: &str) -> Self {
        let mut at = self;
        for token in pointer.split('/').skip(1) {
            let token = token.replace("~1", "/").replace("~0", "~");
            let child = at.children().next();
            at = match child.map(Cursor::key_text) {
                Some(Some(_)) => at.key(&token),
                Some(None) => token.parse().map_or(at, |index| at.item(index)),
                None => at,
            };
        }
        at
    }

    /// The items of a sequence or the values of a mapping, in order.
    pub fn children(self) -> impl Iterator<Item = Self> + 'a {
        let positions = self.positions;
        let mut next = positions.nodes[self.node as usize].first_child;
        std::iter::from_fn(move || {
            let node = (next != NONE).then_some(next)?;
            next = positions.nodes[node as usize].next_sibling;
            Some(Cursor { positions, node })
        })
    }

    fn key_text(self) -> Option<&'a str> {
        let key = self.positions.nodes[self.node as usize].key;
        let text = self.positions.nodes.get(key as usize)?.text;
        self.positions.keys.get(text as usize).map(String::as_str)
    }
}

/// A collection that is being read.
struct Open {
    node: u32,
    last_child: u32,
    mapping: bool,
    /// The key that waits for its value.
    key: u32,
    /// The nodes in it so far, with what aliases repeat.
    expanded: usize,
    anchor: usize,
}

impl Open {
    /// Whether what comes next is a value, not a key.
    fn awaits_value(&self) -> bool {
        !self.mapping || self.key != NONE
    }
}

struct Builder {
    positions: Positions,
    key_texts: BTreeMap<String, u32>,
    open: Vec<Open>,
    /// First child and expanded size of each anchored node.
    anchors: BTreeMap<usize, (u32, usize)>,
    expanded: usize,
}

impl Builder {
    fn new(source: u32) -> Self {
        Self {
            positions: Positions { source, ..Positions::default() },
            key_texts: BTreeMap::new(),
            open: Vec::new(),
            anchors: BTreeMap::new(),
            expanded: 0,
        }
    }

    fn read(mut self, text: &str) -> Result<Positions, Report> {
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| self.syntax(&error, text))?;
            match event {
                Event::Scalar(text, style, anchor, _) => {
                    let node = self.node(span);
                    let inside = self.open.last().is_some_and(Open::awaits_value);
                    let null = ["", "~", "null", "Null", "NULL"].contains(&text.as_ref());
                    if inside && null && style == ScalarStyle::Plain {
                        self.positions.nulls.push(node);
                    }
                    if text.len() > MAX_STRING {
                        let message =
                            format!("a string of {} bytes, more than {MAX_STRING}", text.len());
                        let place = self.positions.place(node);
                        return Err(Diagnostic::new(Code::TooLarge, message).at(place).into());
                    }
                    if anchor != 0 {
                        self.anchors.insert(anchor, (NONE, 1));
                    }
                    self.attach(node, Some(&text), 1)?;
                }
                Event::Alias(anchor) => {
                    let node = self.node(span);
                    let (children, size) = self.anchors.get(&anchor).copied().unwrap_or((NONE, 1));
                    self.positions.nodes[node as usize].first_child = children;
                    self.attach(node, None, size)?;
                }
                Event::SequenceStart(anchor, _) => self.begin(span, false, anchor)?,
                Event::MappingStart(anchor, _) => self.begin(span, true, anchor)?,
                Event::SequenceEnd | Event::MappingEnd => self.end()?,
                _ => {}
            }
        }
        Ok(self.positions)
    }

    fn begin(&mut self, span: Span, mapping: bool, anchor: usize) -> Result<(), Report> {
        let node = self.node(Span::empty(span.start));
        if self.open.len() >= MAX_DEPTH {
            let place = self.positions.place(node);
            let message = format!("nested deeper than {MAX_DEPTH} levels");
            return Err(Diagnostic::new(Code::TooLarge, message).at(place).into());
        }
        self.open.push(Open { node, last_child: NONE, mapping, key: NONE, expanded: 1, anchor });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Report> {
        let Some(done) = self.open.pop() else { return Ok(()) };
        if done.anchor != 0 {
            let first_child = self.positions.nodes[done.node as usize].first_child;
            self.anchors.insert(done.anchor, (first_child, done.expanded));
        }
        self.attach(done.node, None, done.expanded)
    }

    /// Puts a finished node into the collection that is open, as key or as value.
    fn attach(&mut self, node: u32, text: Option<&str>, size: usize) -> Result<(), Report> {
        let Some(open) = self.open.last_mut() else {
            self.positions.roots.push(node);
            self.expanded += size;
            return Ok(());
        };
        open.expanded += size;
        if open.expanded + self.expanded > MAX_NODES {
            let message = format!("more than {MAX_NODES} nodes once the aliases are written out");
            let place = self.positions.place(node);
            return Err(Diagnostic::new(Code::TooLarge, message).at(place).into());
        }
        if !open.awaits_value() {
            open.key = node;
            let text = text.unwrap_or_default();
            let index = if let Some(&index) = self.key_texts.get(text) {
                index
            } else {
                let index = u32::try_from(self.positions.keys.len()).unwrap_or(NONE);
                self.key_texts.insert(text.to_owned(), index);
                self.positions.keys.push(text.to_owned());
                index
            };
            self.positions.nodes[node as usize].text = index;
            return Ok(());
        }
        self.positions.nodes[node as usize].key = std::mem::replace(&mut open.key, NONE);
        if open.last_child == NONE {
            self.positions.nodes[open.node as usize].first_child = node;
        } else {
            self.positions.nodes[open.last_child as usize].next_sibling = node;
        }
        open.last_child = node;
        Ok(())
    }

    fn node(&mut self, span: Span) -> u32 {
        let narrow = |number: usize| u32::try_from(number).unwrap_or(NONE);
        let one_line = span.start.line() == span.end.line();
        self.positions.nodes.push(Node {
            line: narrow(span.start.line()),
            column: narrow(span.start.col() + 1),
            length: if one_line { narrow(span.len()) } else { 0 },
            key: NONE,
            text: NONE,
            first_child: NONE,
            next_sibling: NONE,
        });
        narrow(self.positions.nodes.len() - 1)
    }

    fn syntax(&self, error: &saphyr_parser::ScanError, text: &str) -> Report {
        let mark = error.marker();
        let (mut line, mut column) = (mark.line(), mark.col() + 1);
        if error.info().contains("tab") {
            // The parser notices it late, and tells where the line before it ended.
            let lines = (1..).zip(text.lines()).skip(mark.line().saturating_sub(1));
            let indents = lines.map(|(number, line)| {
                (number, line.split(|c: char| !c.is_whitespace()).next().unwrap_or_default())
            });
            if let Some((number, indent)) = indents.into_iter().find(|(_, i)| i.contains('\t')) {
                line = number;
                column = indent.chars().take_while(|c| *c != '\t').count() + 1;
            }
        }
        let place = Place {
            source: self.positions.source,
            line: u32::try_from(line).unwrap_or(NONE),
            column: u32::try_from(column).unwrap_or(NONE),
            length: 0,
        };
        syntax_error(place, error.info()).into()
    }
}

/// The text is not YAML, in the words of the parser that found it.
pub(super) fn syntax_error(place: Place, reason: &str) -> Diagnostic {
    let mut diagnostic =
        Diagnostic::new(Code::Syntax, format!("not valid YAML: {reason}")).at(place);
    if reason.contains("tab") {
        diagnostic = diagnostic.help("indent with spaces; YAML has no tabs");
    } else if reason.contains("simple key") {
        let help = "write `:` and a blank behind the key, which may have 1,024 characters at most";
        diagnostic = diagnostic.help(help);
    }
    diagnostic
}
