//! The plot of docs/fleet.md: which part of the hosts is ready when, in each scenario. Written only where it is asked for.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

/// Scenarios with one document from the start on, and their colours.
const DRAWN: [(&str, &str); 6] = [
    ("caches live", "#1b7f3b"),
    ("one cache is away for 20 s", "#2f6fb3"),
    ("one cache is away for a minute", "#c77c02"),
    ("one cache dies for ever", "#b3282d"),
    ("origin says SlowDown for a minute", "#6b4fa0"),
    ("black-out at 30 s, return at 300 s", "#666666"),
];

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 50.0;

static KNOWN: Mutex<BTreeMap<String, Vec<f64>>> = Mutex::new(BTreeMap::new());

/// Keeps when the hosts of a scenario were ready, in order, and writes the plot of all that is known.
pub(crate) fn add(what: &str, ready: &[f64]) {
    let Ok(file) = std::env::var("VENEER_FLEET_PLOT") else { return };
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.insert(what.into(), ready.to_vec());
    std::fs::write(&file, draw(&known)).unwrap_or_else(|why| panic!("{file}: {why}"));
}

fn draw(known: &BTreeMap<String, Vec<f64>>) -> String {
    let drawn =
        || DRAWN.iter().filter_map(|(what, colour)| Some((what, colour, known.get(*what)?)));
    let longest =
        drawn().filter_map(|(.., ready)| ready.last()).fold(60.0_f64, |most, last| most.max(*last));
    let step = [10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0]
        .into_iter()
        .find(|step| longest / step < 12.0);
    let (step, x) =
        (step.unwrap_or(5000.0), |seconds: f64| LEFT + seconds / longest * (WIDTH - LEFT - 20.0));
    let y = |part: f64| 20.0 + (1.0 - part) * (HEIGHT - 50.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        HEIGHT + 20.0 * (DRAWN.len() / 2) as f64 + 10.0
    );
    for part in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let at = y(part);
        writeln!(svg, "<path d=\"M{LEFT} {at}H{}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{:.0} %</text>",
            WIDTH - 20.0, LEFT - 6.0, at + 4.0, part * 100.0).unwrap();
    }
    let mut at = 0.0;
    while at <= longest {
        writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{at} s</text>",
            x(at),
            HEIGHT - 12.0
        )
        .unwrap();
        at += step;
    }
    for (number, (what, colour, ready)) in drawn().enumerate() {
        let mut path = format!("M{:.1} {:.1}", x(0.0), y(0.0));
        for hundredth in 0..=100 {
            let place = (ready.len().saturating_sub(1)) * hundredth / 100;
            let Some(seconds) = ready.get(place) else { continue };
            write!(path, "L{:.1} {:.1}", x(*seconds), y(hundredth as f64 / 100.0)).unwrap();
        }
        writeln!(svg, "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>")
            .unwrap();
        let (left, top) =
            (LEFT + 350.0 * (number % 2) as f64, HEIGHT + 8.0 + 20.0 * (number / 2) as f64);
        writeln!(svg, "<path d=\"M{left} {top}h24\" stroke=\"{colour}\" stroke-width=\"2\"/><text x=\"{}\" y=\"{}\">{what}</text>",
            left + 30.0, top + 4.0).unwrap();
    }
    svg + "</svg>\n"
}
