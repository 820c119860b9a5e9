//! The sections `joins`, `isolate` and `global`: which project is in whose network.

use std::collections::{BTreeMap, BTreeSet};

use super::DEFAULT_PROJECT;
use crate::diagnostic::{Code, Diagnostic, Place};
use crate::input::Cursor;
use crate::intent::{Membership, NodeServices, ProjectId};
use crate::resolve::{Context, Projects, Wire};
use crate::spec::{self, Selector};
use crate::value::{Name, StringValue};

/// Works out which project is in whose network.
pub(super) struct Memberships<'p, 'a> {
    projects: &'p mut Projects<'a>,
    isolated: BTreeMap<ProjectId, Place>,
    /// Projects that are isolated by name.
    isolated_by_name: BTreeMap<ProjectId, Place>,
    global: BTreeMap<ProjectId, Place>,
    /// The project that each member of a join is joined to.
    joined: BTreeMap<ProjectId, (ProjectId, Place)>,
}

impl Memberships<'_, '_> {
    pub(super) fn resolve(wire: &Wire<'_>, projects: &mut Projects<'_>, context: &mut Context) {
        let mut memberships = Memberships {
            projects,
            isolated: BTreeMap::new(),
            isolated_by_name: BTreeMap::new(),
            global: BTreeMap::new(),
            joined: BTreeMap::new(),
        };
        memberships.isolate(wire, context);
        memberships.make_global(wire, context);
        for (at, join) in wire.items("joins", |state| &state.joins) {
            memberships.join(at, join, context);
        }
        memberships.find_cycles(context);
        memberships.node_services(wire, context);
        memberships.store();
    }

    fn default_project(&self) -> Option<ProjectId> {
        let name = Name::parse(DEFAULT_PROJECT).ok()?;
        self.projects.index.get(&name)
    }

    /// The projects that a set means, each with its place and whether it is named.
    fn members(
        &self,
        names: &[Name],
        names_at: Option<Cursor<'_>>,
        selector: Option<(&Selector, Cursor<'_>)>,
        context: &mut Context,
    ) -> Vec<(ProjectId, Place, bool)> {
        let mut members = Vec::new();
        let mut seen = BTreeSet::new();
        for (name, at) in names.iter().zip(names_at.into_iter().flat_map(Cursor::children)) {
            if let Some(id) = self.projects.index.get(name) {
                seen.insert(id);
                members.push((id, at.place(), true));
            } else {
                let known = self.projects.index.names();
                context.unknown(Code::UnknownProject, "project", name, at.place(), known);
            }
        }
        let Some((selector, at)) = selector else { return members };
        let good = context.check_selector(selector, at);
        let default = self.default_project();
        let mut any = false;
        for (index, project) in self.projects.list.iter().enumerate() {
            let id = ProjectId::new(index);
            if selector.matches(&project.labels) {
                any = true;
                // It is what it is, whatever a selector says.
                if Some(id) != default && seen.insert(id) {
                    members.push((id, at.place(), false));
                }
            }
        }
        if good && !any {
            context.selector_matches_nothing("project", at.place());
        }
        members
    }

    fn set_members(
        &self,
        key: &str,
        at: Cursor<'_>,
        set: &spec::ProjectSet,
        context: &mut Context,
    ) -> Vec<(ProjectId, Place, bool)> {
        if !set.is_list && set.projects.is_empty() && set.selector.is_none() {
            context.push(names_nothing(&format!("`{key}`"), at.key_place()));
        }
        let names_at = if set.is_list { Some(at) } else { at.find("projects") };
        let selector = set.selector.as_ref().map(|selector| (selector, at.key("selector")));
        self.members(&set.projects, names_at, selector, context)
    }

    fn isolate(&mut self, wire: &Wire<'_>, context: &mut Context) {
        let default = self.default_project();
        for (at, set) in wire.values("isolate", |state| state.isolate.as_ref()) {
            for (project, place, named) in self.set_members("isolate", at, set, context) {
                if Some(project) == default {
                    context.push(
                        Diagnostic::new(
                            Code::IsolateDefault,
                            "the project `default` can't be isolated",
                        )
                        .at(place)
                        .help("it is always global; put the pods into a project of their own"),
                    );
                    continue;
                }
                self.isolated.entry(project).or_insert(place);
                if named {
                    self.isolated_by_name.entry(project).or_insert(place);
                }
            }
        }
    }

    /// Whose services the nodes' own processes reach. Several documents add to each other.
    fn node_services(&mut self, wire: &Wire<'_>, context: &mut Context) {
        let mut found: Option<NodeServices> = None;
        for (at, set) in wire.values("nodeServices", |state| state.node_services.as_ref()) {
            let members = self.set_members("nodeServices", at, set, context);
            let found = found.get_or_insert_with(|| NodeServices {
                projects: BTreeSet::new(),
                place: at.key_place(),
            });
            found.projects.extend(members.into_iter().map(|(project, ..)| project));
        }
        self.projects.node_services = found;
    }

    fn make_global(&mut self, wire: &Wire<'_>, context: &mut Context) {
        if let Some(default) = self.default_project() {
            let place = self.projects.list[default.index()].place;
            self.global.insert(default, place);
        }
        for (at, set) in wire.values("global", |state| state.global.as_ref()) {
            for (project, place, named) in self.set_members("global", at, set, context) {
                if named && let Some(&isolated) = self.isolated_by_name.get(&project) {
                    let what = "is global and isolated";
                    context.push(self.isolate_joined(project, what, place, isolated));
                } else if !self.isolated.contains_key(&project) {
                    self.global.entry(project).or_insert(place);
                }
            }
        }
    }

    fn join(&mut self, at: Cursor<'_>, join: &spec::Join, context: &mut Context) {
        let spec::Join { to, projects, selector } = join;
        if projects.is_empty() && selector.is_none() {
            context.push(names_nothing("the join", at.place()));
        }
        let selector = selector.as_ref().map(|selector| (selector, at.key("selector")));
        let members = self.members(projects, at.find("projects"), selector, context);
        let to_place = at.key("to").place();
        let Some(target) = self.projects.index.get(to) else {
            let known = self.projects.index.names();
            context.unknown(Code::UnknownProject, "project", to, to_place, known);
            return;
        };
        let default = self.default_project();
        if Some(target) == default {
            context.push(join_default(to_place));
            return;
        }
        if let Some(&global) = self.global.get(&target) {
            context.push(
                Diagnostic::new(Code::JoinGlobal, format!("the project `{to}` is global"))
                    .at(to_place)
                    .related(global, "made global here")
                    .help("a global project reaches all others without a join"),
            );
            return;
        }
        if let Some(&isolated) = self.isolated_by_name.get(&target) {
            let what = "is the target of a join and isolated";
            context.push(self.isolate_joined(target, what, to_place, isolated));
            return;
        }
        for (member, place, named) in members {
            let name = &self.projects.list[member.index()].name;
            if member == target {
                if named {
                    context.push(
                        Diagnostic::new(Code::JoinItself, format!("`{name}` is joined to itself"))
                            .at(place)
                            .help("remove it from the list; the target is part of the join"),
                    );
                }
            } else if Some(member) == default {
                context.push(join_default(place));
            } else if named && let Some(&isolated) = self.isolated_by_name.get(&member) {
                let what = "is joined and isolated";
                context.push(self.isolate_joined(member, what, place, isolated));
            } else if self.isolated.contains_key(&member) {
                // Isolation wins over every selector.
            } else if let Some(&global) = self.global.get(&member) {
                context.push(
                    Diagnostic::new(
                        Code::JoinGlobal,
                        format!("the project `{name}` is joined and global"),
                    )
                    .at(place)
                    .related(global, "made global here")
                    .help("keep one of the two"),
                );
            } else if let Some(&(other, first)) = self.joined.get(&member) {
                if other != target || named {
                    let message = if other == target {
                        format!("the project `{name}` is joined to the same project twice")
                    } else {
                        format!("the project `{name}` is in two joins")
                    };
                    context.push(
                        Diagnostic::new(Code::JoinTwice, message)
                            .at(place)
                            .related(first, "joined here already")
                            .help("a project has one network: keep one of the two"),
                    );
                }
            } else {
                self.joined.insert(member, (target, place));
                self.projects.joins.entry(member).or_insert(place);
                self.projects.joins.entry(target).or_insert(to_place);
            }
        }
    }

    fn isolate_joined(
        &self,
        project: ProjectId,
        what: &str,
        place: Place,
        isolated: Place,
    ) -> Diagnostic {
        let name = &self.projects.list[project.index()].name;
        Diagnostic::new(Code::IsolateJoined, format!("the project `{name}` {what}"))
            .at(isolated)
            .related(place, "named here")
            .help("keep one of the two; `isolate` overrides selectors, not names")
    }

    /// RF064: following a join leads to a project that is not joined.
    fn find_cycles(&mut self, context: &mut Context) {
        let mut in_cycle = BTreeSet::new();
        for &start in self.joined.keys() {
            let mut path = vec![start];
            let mut at = start;
            while let Some(&(next, _)) = self.joined.get(&at) {
                if let Some(begin) = path.iter().position(|project| *project == next) {
                    let cycle = &path[begin..];
                    if cycle.iter().all(|project| in_cycle.insert(*project)) {
                        context.push(self.cycle(cycle));
                    }
                    break;
                }
                path.push(next);
                at = next;
            }
        }
        self.joined.retain(|project, _| !in_cycle.contains(project));
    }

    fn cycle(&self, cycle: &[ProjectId]) -> Diagnostic {
        let name = |project: &ProjectId| format!("`{}`", self.projects.list[project.index()].name);
        let names: Vec<String> = cycle.iter().chain(cycle.first()).map(name).collect();
        let places = cycle.iter().filter_map(|project| self.joined.get(project));
        let mut places: Vec<Place> = places.map(|(_, place)| *place).collect();
        places.sort();
        let message = format!("the joins go in a circle: {}", names.join(" to "));
        let mut diagnostic = Diagnostic::new(Code::JoinCycle, message)
            .help("join all of them to one project, which is in no other join");
        for (number, place) in places.into_iter().enumerate() {
            diagnostic = if number == 0 {
                diagnostic.at(place)
            } else {
                diagnostic.related(place, "and here")
            };
        }
        diagnostic
    }

    fn store(self) {
        self.projects.global.clone_from(&self.global);
        let root = |project: ProjectId| {
            let mut at = project;
            while let Some(&(next, _)) = self.joined.get(&at) {
                at = next;
            }
            at
        };
        for index in 0..self.projects.list.len() {
            let project = ProjectId::new(index);
            self.projects.list[index].membership = if self.global.contains_key(&project) {
                Membership::Global
            } else if self.joined.contains_key(&project) {
                Membership::Joined(root(project))
            } else {
                Membership::Own
            };
        }
    }
}

fn names_nothing(what: &str, place: Place) -> Diagnostic {
    Diagnostic::new(Code::MissingKey, format!("{what} has neither `projects` nor `selector`"))
        .at(place)
        .help("name the projects that are meant, or select them by label")
}

fn join_default(place: Place) -> Diagnostic {
    Diagnostic::new(Code::JoinDefault, "the project `default` can't be joined")
        .at(place)
        .help("it is always global, so it reaches all others already")
}
