//! The rates as a bar chart, in SVG.

use std::fmt::Write as _;

use crate::result::{Rate, Results};

const WIDTH: u32 = 760;
const NAME_WIDTH: u32 = 250;
const BAR_HEIGHT: u32 = 22;
const ROW_HEIGHT: u32 = 32;
const HEAD: u32 = 60;
const FOOT: u32 = 34;

/// A bar for each contender, Pen's in another colour.
pub(crate) fn draw(results: &Results) -> String {
    let mut text = String::new();
    write_chart(results, &mut text).expect("writing to a String does not fail");
    text
}

fn write_chart(results: &Results, out: &mut String) -> std::fmt::Result {
    let rows = results.rates.len() as u32;
    let height = HEAD + rows * ROW_HEIGHT + FOOT;
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"26\" font-size=\"16\" font-weight=\"bold\">\
         Frames forwarded without loss, 1,000 a second</text>\n\
         <text x=\"16\" y=\"45\" fill=\"#666666\">\
         60-byte frames, one veth pair, forwarder on one core, generator on the other</text>"
    )?;
    let most = results
        .rates
        .iter()
        .map(|rate| rate.kpps)
        .fold(1.0, f64::max);
    let room = f64::from(WIDTH - NAME_WIDTH - 70);
    for (row, Rate { name, kpps, .. }) in (0..).zip(&results.rates) {
        let y = HEAD + row * ROW_HEIGHT;
        let middle = y + BAR_HEIGHT / 2 + 5;
        let width = kpps / most * room;
        let colour = if name.contains("plane") {
            "#1f6f4a"
        } else {
            "#9aa5b1"
        };
        let name = escape(name);
        writeln!(
            out,
            "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{name}</text>\n\
             <rect x=\"{NAME_WIDTH}\" y=\"{y}\" \
             width=\"{width:.1}\" height=\"{BAR_HEIGHT}\" fill=\"{colour}\"/>\n\
             <text x=\"{:.1}\" y=\"{middle}\">{kpps:.0}</text>",
            NAME_WIDTH - 10,
            f64::from(NAME_WIDTH) + width + 6.0,
        )?;
    }
    let machine = &results.machine;
    let foot = format!(
        "{} UTC, {} cores, {}, kernel {}",
        machine.date, machine.cores, machine.processor, machine.kernel
    );
    writeln!(
        out,
        "<text x=\"16\" y=\"{}\" fill=\"#666666\" font-size=\"11\">{}</text>\n</svg>",
        height - 12,
        escape(&foot)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn names_can_hold_anything() {
        assert_eq!(escape("a < b & c"), "a &lt; b &amp; c");
    }
}
