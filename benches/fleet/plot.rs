//! Plots as SVG, plain enough for a white and a dark page.

use std::fmt::Write;

use super::report::{Curve, number};

const WIDTH: f64 = 760.0;
const COLOURS: [&str; 4] = ["#2a78d6", "#5fb3b3", "#d97b29", "#8a6fc1"];
const TEXT: &str = "#808080";
/// Room for the names of bars.
const NAMES: f64 = 210.0;
/// Room for the figures behind the longest bar.
const FIGURES: f64 = 90.0;
const BAR: f64 = 18.0;
/// Above the plot, for its title.
const HEAD: f64 = 34.0;

/// Bars that belong together.
pub struct Group {
    /// The heading above them.
    pub label: String,
    /// Name and length of each.
    pub bars: Vec<(String, f64)>,
}

/// Bars in groups, all on one scale.
pub fn bars(title: &str, unit: &str, groups: &[Group]) -> String {
    let longest =
        groups.iter().flat_map(|group| &group.bars).map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - NAMES - FIGURES) / longest;
    let mut names: Vec<&str> = Vec::new();
    let (mut body, mut y) = (String::new(), HEAD + 8.0);
    for group in groups {
        if groups.len() > 1 {
            text(&mut body, 0.0, y + 13.0, "start", "bold", &group.label);
            y += BAR + 2.0;
        }
        for (name, value) in &group.bars {
            let colour = colour_of(&mut names, if groups.len() > 1 { name } else { "" });
            text(&mut body, NAMES - 8.0, y + 13.0, "end", "normal", name);
            let width = (value * scale).max(1.0);
            let _ = writeln!(
                body,
                r#"<rect x="{NAMES}" y="{y:.1}" width="{width:.1}" height="{BAR}" rx="2" fill="{colour}"/>"#
            );
            text(&mut body, NAMES + width + 6.0, y + 13.0, "start", "normal", &format!("{} {unit}", number(*value)));
            y += BAR + 4.0;
        }
        y += 8.0;
    }
    frame(title, y, &body)
}

/// The colour of a name: the next one for a new name.
fn colour_of<'a>(names: &mut Vec<&'a str>, name: &'a str) -> &'static str {
    let index = names.iter().position(|known| *known == name).unwrap_or_else(|| {
        names.push(name);
        names.len() - 1
    });
    COLOURS[index % COLOURS.len()]
}

/// Distributions: which part of the records had come after which time.
pub fn curves(title: &str, curves: &[Curve]) -> String {
    let (left, top, width, height) = (52.0, HEAD + 10.0, WIDTH - 80.0, 260.0);
    let last = curves.iter().filter_map(|curve| curve.points.last()).map(|(x, _)| *x).fold(1.0, f64::max);
    let step = nice_step(last);
    let most = (last / step).ceil() * step;
    let (x_of, y_of) = (|x: f64| left + x / most * width, |y: f64| top + (1.0 - y) * height);
    let mut body = String::new();
    for part in [0.0, 0.25, 0.5, 0.75, 1.0] {
        line(&mut body, (left, y_of(part)), (left + width, y_of(part)));
        text(&mut body, left - 6.0, y_of(part) + 4.0, "end", "normal", &format!("{} %", part * 100.0));
    }
    let mut tick = 0.0;
    while tick <= most + step / 2.0 {
        line(&mut body, (x_of(tick), top + height), (x_of(tick), top + height + 4.0));
        text(&mut body, x_of(tick), top + height + 18.0, "middle", "normal", &format!("{} ms", number(tick)));
        tick += step;
    }
    for (index, curve) in curves.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let points: Vec<String> =
            curve.points.iter().map(|(x, y)| format!("{:.1},{:.1}", x_of(*x), y_of(*y))).collect();
        let points = points.join(" ");
        let _ = writeln!(body, r#"<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>"#);
        let y = top + height + 44.0 + 18.0 * index as f64;
        let _ = writeln!(body, r#"<rect x="{left}" y="{:.1}" width="14" height="4" fill="{colour}"/>"#, y - 6.0);
        text(&mut body, left + 22.0, y, "start", "normal", &curve.label);
    }
    frame(title, top + height + 52.0 + 18.0 * curves.len() as f64, &body)
}

/// 1, 2 or 5 of some power of ten, so that there are some five to ten of them.
fn nice_step(last: f64) -> f64 {
    let power = 10_f64.powf((last / 5.0).log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    factors.into_iter().map(|factor| factor * power).find(|step| last / step <= 8.0).unwrap_or(10.0 * power)
}

fn frame(title: &str, height: f64, body: &str) -> String {
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0}" font-family="sans-serif" font-size="13" fill="{TEXT}">"#
    );
    let _ = writeln!(svg, r#"<text x="0" y="20" font-size="16" font-weight="bold">{}</text>"#, escaped(title));
    svg.push_str(body);
    svg.push_str("</svg>\n");
    svg
}

fn text(body: &mut String, x: f64, y: f64, anchor: &str, weight: &str, words: &str) {
    let words = escaped(words);
    let _ =
        writeln!(body, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-weight="{weight}">{words}</text>"#);
}

fn line(body: &mut String, from: (f64, f64), to: (f64, f64)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(body, r#"<path d="M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}" stroke="{TEXT}" stroke-opacity="0.35"/>"#);
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
