//! The boot as a chart: a line for each stage, and a bar from the end of the stage before to its own.

use super::text::{clean, moment};
use crate::control::protocol::BootReport;

/// Columns of the chart.
const WIDTH: u64 = 40;

/// The chart.
pub(super) fn render(boot: &BootReport) -> String {
    // A container begins with its first stage, on a kernel that has run for long; a machine with the kernel.
    let first = boot
        .stages
        .first()
        .filter(|s| s.name == "boot.start.container");
    let start = first.map_or(0, |s| s.at_ms);
    let end = boot.stages.iter().map(|s| s.at_ms).max().unwrap_or(0);
    let (end, since) = (end.saturating_sub(start), |at: u64| {
        at.saturating_sub(start)
    });
    let names: Vec<String> = boot.stages.iter().map(|s| clean(&s.name)).collect();
    let width = names
        .iter()
        .map(|n| n.chars().count())
        .max()
        .unwrap_or(0)
        .max(5);
    let mut shown = format!(
        "init {}, boot of {} s\n{:width$} {:>9} {:>9}\n",
        clean(&boot.version),
        moment(end),
        "STAGE",
        "AT",
        "DELTA"
    );
    let mut before = 0;
    for (stage, name) in boot.stages.iter().zip(&names) {
        let at = since(stage.at_ms);
        let from = column(before.min(at), end).min(WIDTH - 1);
        // What took no time is a mark all the same.
        let bar = column(at, end).saturating_sub(from).max(1);
        let delta = at.saturating_sub(before);
        let row = format!(
            "{name:width$} {:>9} {:>9}  {}{}",
            moment(at),
            format!("+{}", moment(delta)),
            repeat(' ', from),
            repeat('#', bar)
        );
        shown.push_str(&row);
        shown.push('\n');
        before = at;
    }
    shown
}

fn column(at: u64, end: u64) -> u64 {
    let scaled = u128::from(at) * u128::from(WIDTH) / u128::from(end.max(1));
    u64::try_from(scaled).unwrap_or(WIDTH)
}

fn repeat(c: char, count: u64) -> String {
    (0..count).map(|_| c).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::Stage;

    fn boot(stages: &[(&str, u64)]) -> BootReport {
        BootReport {
            version: "1".into(),
            stages: stages
                .iter()
                .map(|(name, at_ms)| Stage {
                    name: (*name).into(),
                    at_ms: *at_ms,
                })
                .collect(),
            events: Vec::new(),
        }
    }

    #[test]
    fn bars_follow_one_another() {
        let shown = render(&boot(&[
            ("boot.start", 400),
            ("boot.var", 401),
            ("boot.healthy", 4000),
        ]));
        let expected = "\
init 1, boot of 4.000 s
STAGE               AT     DELTA
boot.start       0.400    +0.400  ####
boot.var         0.401    +0.001      #
boot.healthy     4.000    +3.599      ####################################
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_container_begins_with_its_first_stage() {
        let shown = render(&boot(&[
            ("boot.start.container", 2_960_000),
            ("boot.healthy", 2_964_000),
        ]));
        let expected = "\
init 1, boot of 4.000 s
STAGE                       AT     DELTA
boot.start.container     0.000    +0.000  #
boot.healthy             4.000    +4.000  ########################################
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn times_out_of_order_or_absurd_do_not_break_it() {
        let shown = render(&boot(&[
            ("a", u64::MAX),
            ("b", 0),
            ("c", u64::MAX),
            ("d", 0),
        ]));
        assert!(
            shown
                .lines()
                .skip(2)
                .all(|l| l.contains('#') && l.len() < 100)
        );
        assert_eq!(render(&boot(&[])).lines().count(), 2);
    }
}
