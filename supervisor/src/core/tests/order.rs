//! Who waits for whom, and for how long.

use super::super::outlook::steps;
use super::*;

#[test]
fn a_layered_graph_costs_its_edges_and_not_its_paths() {
    const LAYERS: usize = 40;
    // Two services a layer, each requires both of the layer below: 2^40 paths.
    let specs: Vec<Spec> = (0..LAYERS)
        .flat_map(|layer| {
            let below = layer.checked_sub(1);
            let requires = below.map(|b| format!("requires = ['a{b}', 'b{b}']"));
            let text = format!("type = 'notify'\n{}", requires.unwrap_or_default());
            ["a", "b"].map(|name| spec(&format!("{name}{layer}"), &text))
        })
        .chain([spec("last", &format!("after = ['a{}']", LAYERS - 1))])
        .collect();
    steps::take();
    let mut world = World::new(&specs);
    // Two start, and the set is looked at once for each move, once before and once after them.
    let size = specs.len() + 4 * (LAYERS - 1);
    assert_eq!(steps::take(), size * 5, "{size} services and edges");
    for id in 0..specs.len() {
        world.notify(id, Notification::Ready);
    }
    assert!(world.states().iter().all(|s| *s == State::Healthy));
}
