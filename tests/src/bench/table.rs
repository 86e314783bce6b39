//! The figures for people: a table in Markdown and a chart in SVG.

use std::fmt::Write as _;

use super::Row;
use super::growth::Growth;

/// Rows, then growth.
#[must_use]
pub fn markdown(rows: &[Row], growth: &[Growth], notes: &[String]) -> String {
    let mut text = String::from(
        "| job | program | wall | processor | memory | space | ours to it |\n|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let ours = row.results.first().map_or(f64::NAN, |ours| ours.wall);
        for (n, result) in row.results.iter().enumerate() {
            let job = if n == 0 { format!("**{}**: {}", row.job, row.what) } else { String::new() };
            let ratio = match (n, row.ratio.is_some() && row.compares()) {
                (0, _) | (_, false) => String::new(),
                (_, true) => format!("{:.2}", ours / result.wall),
            };
            text.line(format_args!(
                "| {job} | {} | {} | {} | {} | {} | {ratio} |",
                result.name.replace('|', "\\|"),
                seconds(result.wall),
                seconds(result.processor),
                memory(result.peak_kib),
                memory(result.space_kib),
            ));
        }
        if let Some(verdict) = verdict(row) {
            text.line(format_args!("| | | | | | | {verdict} |"));
        }
        if !row.missing.is_empty() {
            text.line(format_args!("| | not measured: {} | | | | | |", row.missing.join(", ")));
        }
    }
    for one in growth {
        text.line(format_args!("\n{} by {}, {}:\n", one.what, one.of, one.unit));
        let cells = |cell: &dyn Fn(&(u64, f64)) -> String| -> String {
            one.points.iter().map(|point| format!(" {} |", cell(point))).collect()
        };
        text.line(format_args!("|{}", cells(&|(count, _)| count.to_string())));
        text.line(format_args!("|{}", "---|".repeat(one.points.len())));
        text.line(format_args!("|{}", cells(&|(_, cost)| format!("{cost:.2}"))));
    }
    if !notes.is_empty() {
        text.push('\n');
    }
    for note in notes {
        text.line(format_args!("- {note}"));
    }
    text
}

trait Lines {
    fn line(&mut self, line: std::fmt::Arguments<'_>);
}

impl Lines for String {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        writeln!(self, "{line}").ok();
    }
}

impl Row {
    /// Whether the others are peers, and not more of ours.
    pub(super) fn compares(&self) -> bool {
        self.aim.is_some() || self.job == "stream"
    }
}

fn verdict(row: &Row) -> Option<String> {
    let (ratio, aim) = (row.ratio?, row.aim?);
    let (low, high) = row.spread?;
    let met = if ratio <= aim { "met" } else { "**not met**" };
    Some(format!("{ratio:.2} ({low:.2} to {high:.2}), aim {aim}: {met}"))
}

fn seconds(seconds: f64) -> String {
    match seconds < 0.1 {
        true => format!("{:.2} ms", seconds * 1e3),
        false => format!("{seconds:.2} s"),
    }
}

fn memory(kib: u64) -> String {
    match kib {
        // Too short to be looked at.
        0 => "-".into(),
        kib => format!("{:.1} MiB", kib as f64 / 1024.0),
    }
}

const WIDTH: f64 = 860.0;
const LEFT: f64 = 190.0;
const BAR: f64 = 22.0;

/// Ours to the best peer as bars, with the aim as a mark; below, a plot for each series of growth.
#[must_use]
pub fn chart(rows: &[Row], growth: &[Growth]) -> String {
    let rows: Vec<(&Row, f64)> = rows
        .iter()
        .filter(|row| row.compares())
        .filter_map(|row| row.ratio.map(|ratio| (row, ratio)))
        .collect();
    let most =
        rows.iter().map(|(row, ratio)| ratio.max(row.aim.unwrap_or(0.0))).fold(1.2, f64::max);
    let scale = (WIDTH - LEFT - 90.0) / most;
    let bars = match rows.len() {
        0 => 10.0,
        count => 60.0 + count as f64 * (BAR + 8.0),
    };
    let plots = growth.len().div_ceil(2) as f64 * 190.0;
    let mut svg = String::new();
    svg.line(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {}\" font-family=\"sans-serif\" font-size=\"13\">",
        bars + plots + 20.0
    ));
    svg.line(format_args!("<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>"));
    if !rows.is_empty() {
        heading(&mut svg, LEFT + scale, bars);
    }
    for (n, (row, ratio)) in rows.iter().enumerate() {
        let y = 42.0 + n as f64 * (BAR + 8.0);
        let colour = match row.aim {
            Some(aim) if *ratio > aim => "#c2603a",
            Some(_) | None => "#3a7ca5",
        };
        svg.line(format_args!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            y + 15.0,
            escape(&row.job)
        ));
        svg.line(format_args!(
            "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>",
            ratio * scale
        ));
        svg.line(format_args!(
            "<text x=\"{:.1}\" y=\"{}\">{ratio:.2}</text>",
            LEFT + ratio * scale + 6.0,
            y + 15.0
        ));
        if let Some(aim) = row.aim {
            let x = LEFT + aim * scale;
            svg.line(format_args!(
                "<path d=\"M{x:.1} {}V{}\" stroke=\"#222\" stroke-width=\"2\"/>",
                y - 3.0,
                y + BAR + 3.0
            ));
        }
    }
    for (n, series) in growth.iter().enumerate() {
        plot(&mut svg, series, (n % 2) as f64 * (WIDTH / 2.0), bars + (n / 2) as f64 * 190.0);
    }
    svg.line(format_args!("</svg>"));
    svg
}

/// What the bars mean, and where the peer is.
fn heading(svg: &mut String, one: f64, bars: f64) {
    svg.line(format_args!(
        "<text x=\"12\" y=\"24\" font-size=\"15\">Wall time, ours to what it is held against in the same run (less is better; the mark is the aim)</text>"
    ));
    svg.line(format_args!(
        "<path d=\"M{one:.1} 36V{}\" stroke=\"#999\" stroke-dasharray=\"4 3\"/>",
        bars - 12.0
    ));
}

/// One series in a box of 430 by 180.
fn plot(svg: &mut String, series: &Growth, left: f64, top: f64) {
    let (x0, y0, width, height) = (left + 56.0, top + 150.0, 340.0, 110.0);
    let most_x = series.points.iter().map(|point| point.0).max().unwrap_or(1).max(1) as f64;
    let most_y = series.points.iter().map(|point| point.1).fold(f64::MIN_POSITIVE, f64::max);
    svg.line(format_args!(
        "<text x=\"{}\" y=\"{}\">{}, {}</text>",
        left + 12.0,
        top + 20.0,
        escape(&series.what),
        series.unit
    ));
    svg.line(format_args!(
        "<path d=\"M{x0} {}V{y0}H{}\" fill=\"none\" stroke=\"#999\"/>",
        y0 - height,
        x0 + width
    ));
    let place = |(count, cost): &(u64, f64)| {
        format!("{:.1},{:.1}", x0 + *count as f64 / most_x * width, y0 - cost / most_y * height)
    };
    let points: Vec<String> = series.points.iter().map(place).collect();
    svg.line(format_args!(
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#3a7ca5\" stroke-width=\"2\"/>",
        points.join(" ")
    ));
    svg.line(format_args!(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{most_y:.1}</text>",
        x0 - 6.0,
        y0 - height + 5.0
    ));
    svg.line(format_args!(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">0</text>",
        x0 - 6.0,
        y0 + 5.0
    ));
    svg.line(format_args!(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{most_x:.0} {}</text>",
        x0 + width,
        y0 + 18.0,
        escape(&series.of)
    ));
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Outcome;

    fn row(ratio: f64) -> Row {
        let result = |name: &str, wall| Outcome {
            name: name.into(),
            line: String::new(),
            wall,
            processor: wall,
            peak_kib: 2048,
            space_kib: 0,
        };
        Row {
            job: "unpack".into(),
            what: "a layer".into(),
            aim: Some(0.8),
            ratio: Some(ratio),
            spread: Some((ratio, ratio)),
            results: vec![result("fetch | unpack", ratio), result("a < b", 1.0)],
            missing: vec!["umoci".into()],
        }
    }

    #[test]
    fn an_aim_is_met_or_said_not_to_be() {
        assert!(markdown(&[row(0.5)], &[], &[]).contains("aim 0.8: met"));
        let text = markdown(&[row(0.9)], &[], &["a note".into()]);
        assert!(text.contains("0.90 (0.90 to 0.90), aim 0.8: **not met**"), "{text}");
        assert!(text.contains("| fetch \\| unpack |"), "{text}");
        assert!(text.contains("not measured: umoci") && text.contains("- a note"), "{text}");
    }

    #[test]
    fn a_chart_is_well_formed() {
        let points = vec![(1, 2.0), (1000, 3.0)];
        let of = Growth { of: "a & b".into(), what: "c".into(), unit: "ms", points };
        let svg = chart(&[row(0.5)], &[of]);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("a &amp; b") && !svg.contains("NaN"));
    }
}
