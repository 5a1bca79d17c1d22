//! Makes a failing run small: fewer stimuli, fewer services, the same broken law.
//!
//! Delta debugging (Zeller and Hildebrandt 2002): leave out half of the history, then quarters, and so on
//! down to single stimuli, as long as the law is still broken. Then whole services are left out the
//! same way.

use super::invariants::Law;
use super::program::Program;
use super::world;

fn breaks(program: &Program, law: Law) -> bool {
    world::run(program, None).is_err_and(|broken| broken.law == law)
}

/// The smallest program found that breaks the same law.
pub fn minimise(program: &Program, law: Law) -> Program {
    let mut small = fewer_stimuli(program.clone(), law);
    loop {
        let smaller = (0..small.specs.len())
            .filter(|_| small.specs.len() > 1)
            .map(|place| small.without(place))
            .find(|program| breaks(program, law));
        match smaller {
            Some(smaller) => small = fewer_stimuli(smaller, law),
            None => return small,
        }
    }
}

fn fewer_stimuli(mut program: Program, law: Law) -> Program {
    let mut part = program.history.len().div_ceil(2).max(1);
    loop {
        let mut start = 0;
        let mut fewer = false;
        while start < program.history.len() {
            let end = (start + part).min(program.history.len());
            let mut history = program.history.clone();
            history.drain(start..end);
            let smaller = program.with(&history);
            if breaks(&smaller, law) {
                program = smaller;
                fewer = true;
            } else {
                start = end;
            }
        }
        if part == 1 && !fewer {
            return program;
        }
        if !fewer {
            part = part.div_ceil(2);
        } else {
            part = part.min(program.history.len()).max(1);
        }
    }
}
