//! What only the whole set of services shows: names that nobody has, and cycles.

use super::{MILESTONES, Spec, SpecError};
use std::collections::{BTreeMap, BTreeSet};

/// Checks that every name in `after`, `requires` and `wants` exists and that the order has no cycle.
///
/// # Errors
/// Names the service and the name, or the cycle in full.
pub fn check_order(specs: &[Spec]) -> Result<(), SpecError> {
    order_problems(specs).into_iter().next().map_or(Ok(()), Err)
}

/// Everything that [`check_order`] would find, one after the other.
#[must_use]
pub fn order_problems(specs: &[Spec]) -> Vec<SpecError> {
    let mut problems = Vec::new();
    let names: BTreeSet<&str> = specs.iter().map(|s| s.name.as_str()).collect();
    for spec in specs {
        let mut add = |key: &str, message: String| {
            problems.push(SpecError {
                service: spec.name.clone(),
                key: key.to_owned(),
                message,
            });
        };
        for unknown in &spec.after {
            if !names.contains(unknown.as_str()) && !MILESTONES.contains(&unknown.as_str()) {
                add(
                    "after",
                    format!("{unknown:?} is neither a service nor one of {MILESTONES:?}"),
                );
            }
        }
        for (key, list) in [("requires", &spec.requires), ("wants", &spec.wants)] {
            for unknown in list.iter().filter(|n| !names.contains(n.as_str())) {
                add(key, format!("{unknown:?} is not a service"));
            }
        }
    }
    // Take away whatever waits for nothing that is left; a rest that cannot be taken is a cycle.
    let mut left: BTreeMap<&str, &Spec> = specs.iter().map(|s| (s.name.as_str(), s)).collect();
    loop {
        let free: Vec<&str> = left
            .iter()
            .filter(|(_, s)| {
                !s.after
                    .iter()
                    .chain(&s.requires)
                    .chain(&s.wants)
                    .any(|n| left.contains_key(n.as_str()))
            })
            .map(|(name, _)| *name)
            .collect();
        if free.is_empty() {
            break;
        }
        for name in free {
            left.remove(name);
        }
    }
    if let Some(spec) = left.values().next() {
        problems.push(SpecError {
            service: spec.name.clone(),
            key: "after".into(),
            message: format!(
                "a cycle among {:?}; a service cannot wait for itself",
                left.keys().collect::<Vec<_>>()
            ),
        });
    }
    problems
}
