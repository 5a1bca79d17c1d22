//! A picture of one boot: an SVG, one bar a stage, from power-on to health.
//!
//! Written by hand and the same to the byte for the same boot, so that two charts can be compared
//! as text. Each bar reaches from its stage to the next: what is long is what took long.

use crate::stages::Stages;
use anyhow::{Result, ensure};
use std::fmt::Write;

const LABELS: f64 = 150.0;
const PLOT: f64 = 640.0;
const RIGHT: f64 = 110.0;
const ROW: f64 = 26.0;
const TOP: f64 = 64.0;

/// Who has the machine during a stage decides the colour.
fn colour(stage: &str) -> &'static str {
    match stage {
        "power-on" | "firmware" | "loader" => "#8d99ae",
        "kernel" => "#e09f3e",
        "initramfs" | "root" | "system" | "var" => "#2a6f97",
        name if name.starts_with("net.") => "#468faf",
        name if name.starts_with("service.") => "#6a994e",
        _ => "#bc4749",
    }
}

/// A round step so that the axis has at most ten marks.
fn step(total: f64) -> f64 {
    let mut step = 0.1;
    loop {
        for factor in [1.0, 2.0, 5.0] {
            if total / (step * factor) <= 10.0 {
                return step * factor;
            }
        }
        step *= 10.0;
    }
}

/// Draws `stages` under `title`.
///
/// # Errors
/// When there is nothing to draw.
pub fn svg(title: &str, stages: &Stages) -> Result<String> {
    let total = stages.0.last().map_or(0.0, |last| last.host);
    ensure!(
        total > 0.0 && total.is_finite(),
        "the boot has no stages to draw"
    );
    let scale = PLOT / total;
    let rows = stages.0.iter().fold(0.0, |rows, _| rows + 1.0);
    let (width, height) = (LABELS + PLOT + RIGHT, TOP + rows * ROW + 20.0);
    let bottom = TOP + rows * ROW;
    let mut out = String::new();
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" font-size=\"12\">"
    )?;
    writeln!(
        out,
        "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"15\" font-weight=\"bold\">{}</text>",
        escape(title)
    )?;
    let mark = step(total);
    let mut at = 0.0;
    while at <= total {
        let x = LABELS + at * scale;
        writeln!(
            out,
            "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"#dddddd\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666666\">{} s</text>",
            TOP - 6.0,
            TOP - 10.0,
            round(at)
        )?;
        at += mark;
    }
    let ends = stages.0.iter().skip(1).map(|stage| stage.host);
    let mut y = TOP;
    for (stage, end) in stages.0.iter().zip(ends.chain([total])) {
        let x = LABELS + stage.host * scale;
        let length = ((end - stage.host) * scale).max(1.5);
        let middle = y + ROW / 2.0 + 4.0;
        let guest = stage
            .guest
            .map_or_else(String::new, |guest| format!(", kernel + {guest:.3} s"));
        writeln!(
            out,
            "<g><title>{name} at {host:.3} s{guest}</title>\
             <text x=\"{label:.1}\" y=\"{middle:.1}\" text-anchor=\"end\">{name}</text>\
             <rect x=\"{x:.1}\" y=\"{bar:.1}\" width=\"{length:.1}\" height=\"{thick:.1}\" fill=\"{fill}\"/>\
             <text x=\"{value:.1}\" y=\"{middle:.1}\" fill=\"#333333\">{host:.3} s</text></g>",
            name = escape(&stage.name),
            host = stage.host,
            label = LABELS - 8.0,
            bar = y + 4.0,
            thick = ROW - 8.0,
            fill = colour(&stage.name),
            value = x + length + 6.0,
        )?;
        y += ROW;
    }
    out.push_str("</svg>\n");
    Ok(out)
}

fn round(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::Stage;

    fn boot() -> Stages {
        Stages(
            [
                ("power-on", 0.0, None),
                ("firmware", 1.5, None),
                ("kernel", 3.0, None),
                ("initramfs", 4.0, Some(1.0)),
                ("healthy", 12.0, Some(9.0)),
            ]
            .map(|(name, host, guest)| Stage {
                name: name.to_owned(),
                host,
                guest,
            })
            .into(),
        )
    }

    #[test]
    fn one_bar_a_stage_to_scale() {
        let text = svg("a <boot>", &boot()).expect("a chart");
        assert_eq!(text.matches("<g>").count(), 5);
        assert!(text.contains("a &lt;boot&gt;"));
        assert!(text.contains("initramfs at 4.000 s, kernel + 1.000 s"));
        // 8 of 12 seconds of a plot 640 wide.
        assert!(text.contains("width=\"426.7\""), "{text}");
        assert_eq!(text, svg("a <boot>", &boot()).expect("a chart"));
    }

    #[test]
    fn the_axis_has_round_marks() {
        let steps = [0.9, 12.0, 55.0, 130.0].map(step);
        assert_eq!(steps.map(round), ["0.1", "2", "10", "20"]);
    }

    #[test]
    fn nothing_to_draw_is_an_error() {
        assert!(svg("none", &Stages::default()).is_err());
    }
}
