//! Figures as people read them.

use indicatif::BinaryBytes;

/// `850 µs`, `12.3 ms`, `1.25 s`.
pub fn time(ms: f64) -> String {
    match ms {
        ms if ms < 1.0 => format!("{:.0} µs", ms * 1e3),
        ms if ms < 100.0 => format!("{} ms", digits(ms)),
        ms if ms < 1e3 => format!("{ms:.0} ms"),
        ms => format!("{} s", digits(ms / 1e3)),
    }
}

/// `1.25 GiB`.
pub fn bytes(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

/// `62.5 %` of 0.625.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// `+1.2 %` of 0.012.
pub fn change(share: f64) -> String {
    format!("{:+.1} %", share * 100.0)
}

/// Three digits, where the number has no more before its point.
pub fn digits(number: f64) -> String {
    match number {
        n if n < 10.0 => format!("{n:.2}"),
        n if n < 100.0 => format!("{n:.1}"),
        n => format!("{n:.0}"),
    }
}

/// `2,567,463,684`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// What is not known.
pub const NOTHING: &str = "-";

/// A figure in words, or [`NOTHING`].
pub fn or_nothing<T>(figure: Option<T>, words: impl FnOnce(T) -> String) -> String {
    figure.map_or_else(|| NOTHING.to_owned(), words)
}

/// Lines of columns, the first to the left and the others to the right; an empty row stays empty.
pub fn columns(rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..rows.iter().map(Vec::len).max().unwrap_or(0))
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    for row in rows {
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            match column {
                0 => out.push_str(&format!("{cell:width$}")),
                _ => out.push_str(&format!("  {cell:>width$}")),
            }
        }
        out.truncate(out.trim_end_matches(' ').len());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_three_digits() {
        for (ms, text) in [
            (0.85, "850 µs"),
            (1.234, "1.23 ms"),
            (12.34, "12.3 ms"),
            (123.4, "123 ms"),
            (1234.0, "1.23 s"),
            (123_400.0, "123 s"),
        ] {
            assert_eq!(time(ms), text);
        }
        assert_eq!(bytes(1 << 30), "1.00 GiB");
        assert_eq!(
            (percent(0.625), change(0.0123)),
            ("62.5 %".into(), "+1.2 %".into())
        );
    }

    #[test]
    fn columns_line_up() {
        let rows = [["a", "12"], ["long", "3"]].map(|row| row.map(String::from).to_vec());
        assert_eq!(columns(&rows), "a     12\nlong   3\n");
    }
}
