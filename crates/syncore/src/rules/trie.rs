//! All patterns of a rule set in one tree of steps, walked beside the tree that is scanned.
//!
//! Why: a scan asks about every file of a root. Here a question costs one look-up by name in each place that is
//! still reachable, and in most directories of a root no pattern has anything left to say: there it costs
//! nothing. What can go wrong: recursion. Patterns come from peers too and may be very deep, so nothing here
//! recurses; a node's number is always greater than its parent's.

use std::collections::HashMap;

use super::pattern::{Glob, Pattern, Step};

/// The number of a node.
pub(super) type Place = usize;

/// One step of one or more patterns.
#[derive(Debug, Default)]
struct Node {
    /// Where an exact name leads.
    names: HashMap<Vec<u8>, Place>,
    /// Where a wildcard leads.
    globs: Vec<(Glob, Place)>,
    /// The `**` that follows this step.
    any_depth: Option<Place>,
    /// Whether this is a `**`: once reached, it stays.
    stays: bool,
    /// Which patterns end here.
    rules: Vec<usize>,
    /// The step before, and whether it leads here by name.
    parent: Option<(Place, bool)>,
    /// Below here a pattern ends that could bring something into scope.
    include_below: bool,
    /// Below here, by names alone, ends a catalogue row that lifts a protection.
    lift_below: bool,
}

/// All patterns.
#[derive(Debug)]
pub(super) struct Trie {
    nodes: Vec<Node>,
}

impl Trie {
    pub(super) fn new() -> Self {
        Self { nodes: vec![Node::default()] }
    }

    /// Adds the pattern of rule number `rule`.
    pub(super) fn insert(&mut self, pattern: Pattern, rule: usize) {
        let mut at = 0;
        for step in pattern.steps {
            at = self.child(at, step);
        }
        self.nodes[at].rules.push(rule);
    }

    fn child(&mut self, at: Place, step: Step) -> Place {
        let new = self.nodes.len();
        let node = &mut self.nodes[at];
        let by_name = matches!(step, Step::Name(_));
        let stays = matches!(step, Step::AnyDepth);
        let child = match step {
            Step::Name(name) => *node.names.entry(name).or_insert(new),
            Step::AnyDepth => *node.any_depth.get_or_insert(new),
            Step::Glob(glob) => {
                let known = node.globs.iter().find(|(other, _)| other.text() == glob.text());
                if let Some((_, place)) = known {
                    *place
                } else {
                    node.globs.push((glob, new));
                    new
                }
            }
        };
        if child == new {
            self.nodes.push(Node { stays, parent: Some((at, by_name)), ..Node::default() });
        }
        child
    }

    /// Tells every node what is below it; called once, when all patterns are in.
    pub(super) fn finish(&mut self, is_include: impl Fn(usize) -> bool, is_lift: impl Fn(usize) -> bool) {
        for place in (1..self.nodes.len()).rev() {
            let node = &self.nodes[place];
            let include = node.include_below || node.rules.iter().any(|rule| is_include(*rule));
            let lift = node.lift_below || node.rules.iter().any(|rule| is_lift(*rule));
            if let Some((parent, by_name)) = node.parent {
                self.nodes[parent].include_below |= include;
                self.nodes[parent].lift_below |= lift && by_name;
            }
        }
    }

    /// Which rules match the root, and the places from which names go on.
    pub(super) fn root(&self) -> (&[usize], Vec<Place>) {
        let mut places = Vec::new();
        self.reach(0, &mut places);
        (&self.nodes[0].rules, places)
    }

    /// Calls `found` with the node of every pattern that goes on with, or ends in, `name`.
    pub(super) fn step(&self, from: &[Place], name: &[u8], mut found: impl FnMut(Place)) {
        for place in from {
            let node = &self.nodes[*place];
            // Asked first, because the name is hashed even where the map is empty.
            if !node.names.is_empty()
                && let Some(next) = node.names.get(name)
            {
                found(*next);
            }
            for (glob, next) in &node.globs {
                if glob.matches(name) {
                    found(*next);
                }
            }
        }
    }

    /// Which rules end at `place`.
    pub(super) fn rules(&self, place: Place) -> &[usize] {
        &self.nodes[place].rules
    }

    /// Adds `place`, and the `**` after it, to the places from which names go on, if any can.
    pub(super) fn reach(&self, place: Place, places: &mut Vec<Place>) {
        let node = &self.nodes[place];
        let goes_on = !node.names.is_empty() || !node.globs.is_empty();
        if goes_on && !places.contains(&place) {
            places.push(place);
        }
        if let Some(next) = node.any_depth {
            // A `**` always goes on, and no second one follows it.
            if !places.contains(&next) {
                places.push(next);
            }
        }
    }

    /// Adds the places of `from` that hold in every directory below as well.
    pub(super) fn keep(&self, from: &[Place], places: &mut Vec<Place>) {
        for place in from {
            if self.nodes[*place].stays && !places.contains(place) {
                places.push(*place);
            }
        }
    }

    /// Whether below these places something could be brought into scope by an include rule.
    pub(super) fn include_below(&self, places: &[Place]) -> bool {
        places.iter().any(|place| self.nodes[*place].include_below)
    }

    /// Whether below these places a catalogue row lifts a protection.
    pub(super) fn lift_below(&self, places: &[Place]) -> bool {
        places.iter().any(|place| self.nodes[*place].lift_below)
    }
}
