//! Who waits for whom, by id, settled once.

use super::Id;
use crate::spec::{MILESTONES, Spec};
use std::collections::BTreeSet;

/// The edges of one service.
#[derive(Debug, Default)]
struct Node {
    /// Services it comes after, those it requires and wants included.
    after: Vec<Id>,
    requires: Vec<Id>,
    wants: Vec<Id>,
    required_by: Vec<Id>,
    /// Services that come after it, those that require it included.
    followers: Vec<Id>,
    milestones: Vec<&'static str>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Graph {
    nodes: Vec<Node>,
    /// All services, each after everything it comes after.
    order: Vec<Id>,
}

impl Graph {
    /// Names that nobody has are left out; [`crate::spec::check_order`] refuses them before.
    pub(super) fn new(specs: &[Spec]) -> Self {
        let find = |name: &String| specs.iter().position(|s| s.name == *name).map(Id);
        let mut nodes: Vec<Node> = specs
            .iter()
            .map(|spec| {
                let requires: Vec<Id> = spec.requires.iter().filter_map(find).collect();
                let wants: Vec<Id> = spec.wants.iter().filter_map(find).collect();
                let after = spec.after.iter().filter_map(find);
                let after = after.chain(requires.clone()).chain(wants.clone());
                let after: BTreeSet<Id> = after.collect();
                let milestones = MILESTONES.iter().copied();
                Node {
                    after: after.into_iter().collect(),
                    requires,
                    wants,
                    milestones: milestones
                        .filter(|m| spec.after.iter().any(|a| a == m))
                        .collect(),
                    ..Node::default()
                }
            })
            .collect();
        for place in 0..nodes.len() {
            let edges = nodes
                .get(place)
                .map(|n| (n.after.clone(), n.requires.clone()));
            let (after, requires) = edges.unwrap_or_default();
            for id in after {
                if let Some(node) = nodes.get_mut(id.0) {
                    node.followers.push(Id(place));
                }
            }
            for id in requires {
                if let Some(node) = nodes.get_mut(id.0) {
                    node.required_by.push(Id(place));
                }
            }
        }
        let order = order(&nodes);
        Self { nodes, order }
    }

    pub(super) fn order(&self) -> &[Id] {
        &self.order
    }

    pub(super) fn after(&self, id: Id) -> &[Id] {
        self.nodes.get(id.0).map_or(&[], |n| &n.after)
    }

    pub(super) fn requires(&self, id: Id) -> &[Id] {
        self.nodes.get(id.0).map_or(&[], |n| &n.requires)
    }

    pub(super) fn required_by(&self, id: Id) -> &[Id] {
        self.nodes.get(id.0).map_or(&[], |n| &n.required_by)
    }

    pub(super) fn followers(&self, id: Id) -> &[Id] {
        self.nodes.get(id.0).map_or(&[], |n| &n.followers)
    }

    pub(super) fn milestones(&self, id: Id) -> &[&'static str] {
        self.nodes.get(id.0).map_or(&[], |n| &n.milestones)
    }

    /// A service and everything it requires or wants, through all levels.
    pub(super) fn with_requirements(&self, id: Id) -> BTreeSet<Id> {
        let mut found = BTreeSet::from([id]);
        let mut fresh = vec![id];
        while let Some(id) = fresh.pop() {
            let node = self.nodes.get(id.0).into_iter();
            let pulled = node.flat_map(|n| n.requires.iter().chain(&n.wants));
            fresh.extend(pulled.filter(|p| found.insert(**p)).copied());
        }
        found
    }
}

/// Takes away whatever waits for nothing that is left. What is in a cycle comes last.
fn order(nodes: &[Node]) -> Vec<Id> {
    let mut order: Vec<Id> = Vec::with_capacity(nodes.len());
    let mut left: BTreeSet<Id> = (0..nodes.len()).map(Id).collect();
    loop {
        let waits = |id: &Id| {
            nodes
                .get(id.0)
                .is_some_and(|n| n.after.iter().any(|a| left.contains(a)))
        };
        let free: Vec<Id> = left.iter().filter(|id| !waits(id)).copied().collect();
        if free.is_empty() {
            order.extend(left);
            return order;
        }
        left.retain(|id| !free.contains(id));
        order.extend(free);
    }
}
