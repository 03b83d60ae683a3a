//! Rates as a bar chart, in SVG.

use std::fmt::Write as _;

use crate::machine::Machine;

const WIDTH: u32 = 760;
const NAME_WIDTH: u32 = 250;
const BAR_HEIGHT: u32 = 22;
const ROW_HEIGHT: u32 = 32;
const HEAD: u32 = 60;
const FOOT: u32 = 34;

/// One bar; Pen's have another colour.
#[derive(Debug)]
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) ours: bool,
}

/// Bars of one scale.
#[derive(Debug)]
pub(crate) struct Panel {
    /// Nothing where there is one panel only.
    pub(crate) heading: String,
    pub(crate) bars: Vec<Bar>,
}

/// A picture.
#[derive(Debug)]
pub(crate) struct Chart<'a> {
    pub(crate) title: &'a str,
    pub(crate) subtitle: &'a str,
    pub(crate) panels: Vec<Panel>,
    pub(crate) machine: &'a Machine,
}

impl Panel {
    fn rows(&self) -> u32 {
        self.bars.len() as u32 + u32::from(!self.heading.is_empty())
    }

    fn write(&self, mut row: u32, out: &mut String) -> std::fmt::Result {
        if !self.heading.is_empty() {
            let y = HEAD + row * ROW_HEIGHT + BAR_HEIGHT;
            let heading = escape(&self.heading);
            writeln!(
                out,
                "<text x=\"16\" y=\"{y}\" font-weight=\"bold\">{heading}</text>"
            )?;
            row += 1;
        }
        let most = self.bars.iter().map(|bar| bar.value).fold(1.0, f64::max);
        let room = f64::from(WIDTH - NAME_WIDTH - 70);
        for (row, Bar { name, value, ours }) in (row..).zip(&self.bars) {
            let y = HEAD + row * ROW_HEIGHT;
            let middle = y + BAR_HEIGHT / 2 + 5;
            let width = value / most * room;
            let colour = if *ours { "#1f6f4a" } else { "#9aa5b1" };
            let digits = usize::from(most < 100.0);
            let name = escape(name);
            writeln!(
                out,
                "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{name}</text>\n\
                 <rect x=\"{NAME_WIDTH}\" y=\"{y}\" \
                 width=\"{width:.1}\" height=\"{BAR_HEIGHT}\" fill=\"{colour}\"/>\n\
                 <text x=\"{:.1}\" y=\"{middle}\">{value:.digits$}</text>",
                NAME_WIDTH - 10,
                f64::from(NAME_WIDTH) + width + 6.0,
            )?;
        }
        Ok(())
    }
}

impl Chart<'_> {
    /// As SVG.
    pub(crate) fn draw(&self) -> String {
        let mut text = String::new();
        self.write(&mut text)
            .expect("writing to a String does not fail");
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let rows: u32 = self.panels.iter().map(Panel::rows).sum();
        let height = HEAD + rows * ROW_HEIGHT + FOOT;
        let (title, subtitle) = (escape(self.title), escape(self.subtitle));
        writeln!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
             <text x=\"16\" y=\"26\" font-size=\"16\" font-weight=\"bold\">{title}</text>\n\
             <text x=\"16\" y=\"45\" fill=\"#666666\">{subtitle}</text>"
        )?;
        let mut row = 0;
        for panel in &self.panels {
            panel.write(row, out)?;
            row += panel.rows();
        }
        let machine = self.machine;
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
