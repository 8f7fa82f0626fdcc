//! A plot of dots and intervals as SVG.

use std::fmt::Write;

use super::results::mean_and_interval;

/// One line of the plot.
pub struct Row {
    pub name: String,
    /// A value a seed, at least one.
    pub values: Vec<f64>,
}

const LEFT: f64 = 180.0;
const WIDTH: f64 = 760.0;
const ROW: f64 = 30.0;
const TOP: f64 = 46.0;

/// Seeds as dots, means as strokes, 95 % intervals as lines, and the start as a dashed line.
pub fn svg(rows: &[Row], start: Option<f64>) -> String {
    let all = || rows.iter().flat_map(|row| &row.values).chain(&start).copied();
    let low = (all().fold(f64::INFINITY, f64::min) * 20.0).floor() / 20.0 - 0.05;
    let high = (all().fold(f64::NEG_INFINITY, f64::max) * 20.0).ceil() / 20.0 + 0.05;
    let (low, high) = if low.is_finite() { (low.max(0.0), high.min(1.0)) } else { (0.0, 1.0) };
    let x = |value: f64| LEFT + (WIDTH - LEFT - 20.0) * (value.clamp(low, high) - low) / (high - low);
    let bottom = TOP + ROW * rows.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\">share of right answers on test: seeds, mean, 95 % interval; dashed: the start</text>\n",
        height = bottom + 40.0,
    );
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    let ticks = ((high - low) / 0.05).round() as usize;
    for tick in 0..=ticks {
        let value = low + 0.05 * tick as f64;
        let at = x(value);
        line(format!("<path d=\"M{at:.1} {TOP}V{bottom}\" stroke=\"#ddd\"/>"));
        line(format!(
            "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value:.2}</text>",
            bottom + 18.0
        ));
    }
    if let Some(start) = start {
        let at = x(start);
        line(format!("<path d=\"M{at:.1} {TOP}V{bottom}\" stroke=\"#555\" stroke-dasharray=\"5 4\"/>"));
    }
    for (place, row) in rows.iter().enumerate() {
        let y = TOP + ROW * (place as f64 + 0.5);
        let (mean, half) = mean_and_interval(&row.values);
        line(format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 12.0,
            y + 4.5,
            row.name
        ));
        if let Some(half) = half {
            let (from, to) = (x(mean - half), x(mean + half));
            line(format!("<path d=\"M{from:.1} {y}H{to:.1}\" stroke=\"#2a6f97\" stroke-width=\"2\"/>"));
        }
        let at = x(mean);
        line(format!("<path d=\"M{at:.1} {:.1}v14\" stroke=\"#2a6f97\" stroke-width=\"3\"/>", y - 7.0));
        for &value in &row.values {
            line(format!(
                "<circle cx=\"{:.1}\" cy=\"{y}\" r=\"4\" fill=\"#d1495b\" fill-opacity=\"0.8\"/>",
                x(value)
            ));
        }
    }
    out + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_is_a_dot_and_the_start_a_line() {
        let rows = [
            Row { name: "grpo".to_owned(), values: vec![0.4, 0.5, 0.45] },
            Row { name: "rloo".to_owned(), values: vec![0.42] },
        ];
        let svg = svg(&rows, Some(0.37));
        assert_eq!(svg.matches("<circle").count(), 4);
        assert_eq!(svg.matches("stroke-width=\"2\"").count(), 1, "one value has no interval");
        assert!(svg.contains("stroke-dasharray") && svg.contains(">grpo<") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn nothing_to_show_is_an_empty_plot() {
        assert!(!svg(&[], None).contains("NaN"));
    }
}
