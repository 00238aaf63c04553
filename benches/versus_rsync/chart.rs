//! Line charts with two logarithmic axes, as SVG that can be read on light and on dark pages.
//!
//! The lines differ in dash and mark as well as in colour. The figures are in the description, for whoever cannot see
//! the picture or wants to know them.

use std::fmt::Write as _;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 400.0;
/// The frame of one panel, within its half.
const LEFT: f64 = 76.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 96.0;
const BOTTOM: f64 = 60.0;

const STYLE: &str = "\
text { font: 13px system-ui, sans-serif; fill: #1f2328 } .title { font-size: 16px; font-weight: 600 }
.page { fill: #ffffff } .grid { stroke: #d1d9e0 } .frame { stroke: #59636e; fill: none }
.line { fill: none; stroke-width: 2 } .rsync { stroke: #b35900 } .clonetool { stroke: #0550ae }
.rsync.line { stroke-dasharray: 7 4 } .rsync.mark { fill: #b35900 } .clonetool.mark { fill: #0550ae }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc } .page { fill: #0d1117 } .grid { stroke: #3d444d } .frame { stroke: #9198a1 }
.rsync { stroke: #f0883e } .clonetool { stroke: #79c0ff }
.rsync.mark { fill: #f0883e } .clonetool.mark { fill: #79c0ff }
}
";

/// Two panels over the same horizontal axis.
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) x_title: &'static str,
    /// Values and what is written below them, in ascending order.
    pub(crate) x_ticks: Vec<(f64, String)>,
    /// Whether the first point is not joined to the second.
    pub(crate) first_apart: bool,
    pub(crate) panels: [Panel; 2],
}

pub(crate) struct Panel {
    pub(crate) title: &'static str,
    /// Writes a value of the vertical axis.
    pub(crate) tick: fn(f64) -> String,
    pub(crate) lines: [Line; 2],
}

/// Its name is also its class in the style.
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Maps values between `low` and `high` to places between `from` and `to`.
#[derive(Clone, Copy)]
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn place(self, value: f64) -> f64 {
        let share = (value / self.low).log10() / (self.high / self.low).log10();
        self.from + share * (self.to - self.from)
    }
}

impl Chart {
    /// The whole picture.
    pub(crate) fn svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n\
             <title>{}</title>\n<desc>{}</desc>\n<style>\n{STYLE}</style>\n\
             <rect class=\"page\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n",
            escaped(&self.title),
            escaped(&self.description()),
        );
        text(&mut svg, "title", (WIDTH / 2.0, 28.0), "middle", &self.title);
        for (x, line) in [(WIDTH / 2.0 - 130.0, "rsync"), (WIDTH / 2.0 + 30.0, "clonetool")] {
            let _ = writeln!(svg, "<path class=\"{line} line\" d=\"M{x:.1} 50h36\"/>");
            mark(&mut svg, line, (x + 18.0, 50.0));
            text(&mut svg, "", (x + 44.0, 54.0), "start", line);
        }
        for (panel, left) in self.panels.iter().zip([0.0, WIDTH / 2.0]) {
            self.draw(&mut svg, panel, left);
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn draw(&self, svg: &mut String, panel: &Panel, left: f64) {
        let bounds = (
            self.x_ticks.first().map_or(1.0, |tick| tick.0),
            self.x_ticks.last().map_or(10.0, |tick| tick.0),
        );
        let x = Axis {
            low: bounds.0,
            high: bounds.1,
            from: left + LEFT + 14.0,
            to: left + WIDTH / 2.0 - RIGHT - 14.0,
        };
        let values =
            || panel.lines.iter().flat_map(|line| &line.points).map(|point| point.1.max(f64::MIN_POSITIVE));
        let low = 10_f64.powf(values().fold(f64::INFINITY, f64::min).log10().floor());
        let high = 10_f64.powf(values().fold(low, f64::max).log10().ceil()).max(low * 10.0);
        let y = Axis { low, high, from: HEIGHT - BOTTOM, to: TOP };

        let (frame_left, frame_right) = (left + LEFT, left + WIDTH / 2.0 - RIGHT);
        // A single decade has too few lines to read from.
        let steps: &[f64] = if high / low < 50.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let mut decade = low;
        while decade <= high * 1.001 {
            for step in steps {
                // Without the noise of powers of ten in binary.
                let value = format!("{:.6}", decade * step).parse().unwrap_or(decade);
                if value <= high * 1.001 {
                    let at = y.place(value);
                    let _ = writeln!(
                        svg,
                        "<path class=\"grid\" d=\"M{frame_left:.1} {at:.1}H{frame_right:.1}\"/>"
                    );
                    text(svg, "", (frame_left - 8.0, at + 4.0), "end", &(panel.tick)(value));
                }
            }
            decade *= 10.0;
        }
        for (value, label) in &self.x_ticks {
            let at = x.place(*value);
            let _ = writeln!(svg, "<path class=\"grid\" d=\"M{at:.1} {:.1}V{TOP}\"/>", HEIGHT - BOTTOM);
            text(svg, "", (at, HEIGHT - BOTTOM + 20.0), "middle", label);
        }
        let _ = writeln!(
            svg,
            "<rect class=\"frame\" x=\"{frame_left:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"/>",
            frame_right - frame_left,
            HEIGHT - BOTTOM - TOP
        );
        text(svg, "", (frame_left, TOP - 10.0), "start", panel.title);
        text(svg, "", (f64::midpoint(frame_left, frame_right), HEIGHT - 14.0), "middle", self.x_title);
        for line in &panel.lines {
            let places: Vec<(f64, f64)> =
                line.points.iter().map(|point| (x.place(point.0), y.place(point.1.max(low)))).collect();
            let joined: Vec<String> = (places.iter().skip(usize::from(self.first_apart)))
                .map(|place| format!("{:.1},{:.1}", place.0, place.1))
                .collect();
            let _ = writeln!(svg, "<polyline class=\"{} line\" points=\"{}\"/>", line.name, joined.join(" "));
            places.iter().for_each(|&place| mark(svg, line.name, place));
        }
    }

    fn description(&self) -> String {
        let mut text = format!("Both axes are logarithmic; less is better. By {}:", self.x_title);
        for (index, (_, label)) in self.x_ticks.iter().enumerate() {
            let _ = write!(text, " {label}:");
            for panel in &self.panels {
                for line in &panel.lines {
                    let value = line.points.get(index).map_or(0.0, |point| point.1);
                    let rounded = format!("{value:.3}").parse().unwrap_or(value);
                    let _ = write!(text, " {} {},", line.name, (panel.tick)(rounded));
                }
            }
            text.pop();
            text.push(';');
        }
        text.pop();
        text + "."
    }
}

/// A square for rsync and a dot for clonetool.
fn mark(svg: &mut String, line: &str, (x, y): (f64, f64)) {
    let _ = if line == "rsync" {
        writeln!(
            svg,
            "<rect class=\"{line} mark\" x=\"{:.1}\" y=\"{:.1}\" width=\"8\" height=\"8\"/>",
            x - 4.0,
            y - 4.0
        )
    } else {
        writeln!(svg, "<circle class=\"{line} mark\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\"/>")
    };
}

fn text(svg: &mut String, class: &str, (x, y): (f64, f64), anchor: &str, words: &str) {
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
        escaped(words)
    );
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
