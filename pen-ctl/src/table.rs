//! Plain text for a terminal: aligned columns, scaled numbers, wrapped sentences.

/// Columns that a page of text keeps within, where words allow it.
pub(crate) const WIDTH: usize = 100;

/// Rows under a heading. Columns are as wide as their widest cell.
pub(crate) struct Table {
    heading: Vec<&'static str>,
    /// Whether a column holds numbers, which end where their heading ends.
    numbers: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns; a heading that begins with `>` is one of numbers.
    pub(crate) fn new(columns: &[&'static str]) -> Self {
        Self {
            heading: columns
                .iter()
                .map(|name| name.trim_start_matches('>'))
                .collect(),
            numbers: columns.iter().map(|name| name.starts_with('>')).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; it has as many cells as there are columns.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.heading.len());
        self.rows.push(cells);
    }

    /// Whether there are no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text, each line indented by two.
    pub(crate) fn text(&self) -> String {
        let heading = self.heading.iter().map(|name| (*name).to_owned()).collect();
        let lines: Vec<&Vec<String>> = std::iter::once(&heading).chain(&self.rows).collect();
        let width = |column: usize| {
            lines
                .iter()
                .filter_map(|line| line.get(column))
                .map(|cell| cell.chars().count())
                .max()
        };
        let widths: Vec<usize> = (0..self.heading.len())
            .map(|column| width(column).unwrap_or(0))
            .collect();
        let mut out = String::new();
        for line in lines {
            let mut text = String::new();
            for ((cell, width), number) in line.iter().zip(&widths).zip(&self.numbers) {
                let cell = match number {
                    true => format!("  {cell:>width$}"),
                    false => format!("  {cell:<width$}"),
                };
                text.push_str(&cell);
            }
            out.push_str(text.trim_end());
            out.push('\n');
        }
        out
    }
}

/// `label` and a sentence beside it, wrapped within [`WIDTH`] and indented under its beginning.
pub(crate) fn labelled(label: &str, indent: usize, text: &str) -> String {
    let mut out = String::new();
    let mut line = format!("{label:<indent$}");
    let mut used = line.chars().count();
    let mut fresh = true;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if !fresh && used + 1 + length > WIDTH {
            out.push_str(line.trim_end());
            out.push('\n');
            line = " ".repeat(indent);
            used = indent;
            fresh = true;
        }
        if !fresh {
            line.push(' ');
            used += 1;
        }
        line.push_str(word);
        used += length;
        fresh = false;
    }
    out.push_str(line.trim_end());
    out.push('\n');
    out
}

/// Bytes for the eye: exact below 10,000, then in binary units with three digits or more.
pub(crate) fn bytes(count: u64) -> String {
    if count < 10_000 {
        return count.to_string();
    }
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

/// Seconds for the eye: the two greatest units.
pub(crate) fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        (_, _, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["name", ">count", "meaning"]);
        assert!(table.is_empty());
        table.row(vec!["é".into(), "12345678".into(), "x".into()]);
        table.row(vec!["longer".into(), "1".into(), String::new()]);
        let expected = "  name       count  meaning\n  é       12345678  x\n  longer         1\n";
        assert_eq!(table.text(), expected);
    }

    #[test]
    fn sentences_are_wrapped_under_their_beginning() {
        assert_eq!(labelled("Plane", 7, "short one"), "Plane  short one\n");
        assert_eq!(labelled("Plane", 7, ""), "Plane\n");
        let text = labelled("L", 3, &"word ".repeat(40));
        assert_eq!(
            text.split_whitespace()
                .filter(|word| *word == "word")
                .count(),
            40
        );
        assert!(text.lines().count() == 3 && text.lines().all(|line| line.len() <= WIDTH));
        assert!(text.lines().skip(1).all(|line| line.starts_with("   word")));
        let giant = labelled("L", 3, &"x".repeat(200));
        assert_eq!(giant.lines().count(), 1);
    }

    #[test]
    fn numbers_for_the_eye() {
        for (count, expected) in [
            (0, "0"),
            (9999, "9999"),
            (10_000, "9.8 KiB"),
            (1 << 20, "1.0 MiB"),
            (1023 << 20, "1.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
        for (seconds, expected) in [
            (0, "0 s"),
            (59, "59 s"),
            (61, "1 min 1 s"),
            (3_660, "1 h 1 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
    }
}
