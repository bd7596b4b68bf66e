//! Text within the width of a terminal.

/// Columns where the output is no terminal.
const COLUMNS: usize = 100;

/// Columns of the terminal.
pub fn columns() -> usize {
    let terminal = terminal_size::terminal_size_of(std::io::stdout());
    terminal.map_or(COLUMNS, |(width, _)| usize::from(width.0))
}

/// A text in lines of so many columns, broken between words but not before a sign such as `%`; a word that
/// is longer has a line alone.
pub fn lines(text: &str, columns: usize) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match words.last_mut() {
            Some(last) if !word.contains(char::is_alphanumeric) => *last += &format!(" {word}"),
            _ => words.push(word.to_owned()),
        }
    }
    let mut lines = vec![String::new()];
    for word in &words {
        let last = lines.len() - 1;
        let line = &mut lines[last];
        match line.chars().count() + 1 + word.chars().count() <= columns {
            _ if line.is_empty() => *line += word,
            true => *line += &format!(" {word}"),
            false => lines.push(word.clone()),
        }
    }
    lines
}

/// A paragraph, each of its lines indented.
pub fn paragraph(text: &str, indent: usize, columns: usize) -> String {
    let lines = lines(text, columns.saturating_sub(indent));
    let lines = lines.iter().map(|line| format!("{:indent$}{line}\n", ""));
    lines.collect()
}

/// A table of columns that wide, all to the left, each cell in as many lines as it takes.
pub fn table<const N: usize>(rows: &[[String; N]], widths: [usize; N]) -> String {
    let mut out = String::new();
    for row in rows {
        let cells: Vec<Vec<String>> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| lines(cell, width))
            .collect();
        let height = cells.iter().map(Vec::len).max().unwrap_or(0);
        for i in 0..height {
            let parts = cells.iter().zip(widths).map(|(cell, width)| {
                let part = cell.get(i).map_or("", String::as_str);
                format!("{part:width$}")
            });
            let line = parts.collect::<Vec<_>>().join("  ");
            out += &format!("{}\n", line.trim_end());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words() {
        assert_eq!(lines("a bc def", 4), ["a bc", "def"]);
        assert_eq!(lines("unbreakable it is", 5), ["unbreakable", "it is"]);
        assert_eq!(lines("", 5), [""]);
        assert_eq!(lines("up to 5 %; so", 7), ["up to", "5 %; so"]);
        assert_eq!(paragraph("a bc def", 2, 6), "  a bc\n  def\n");
    }

    #[test]
    fn cells_wrap_beside_each_other() {
        let rows = [["a bc", "1"], ["d", "2 3"]].map(|row| row.map(String::from));
        assert_eq!(table(&rows, [2, 3]), "a   1\nbc\nd   2 3\n");
    }
}
