//! A table of text, drawn with + - |, that fits the terminal.

/// Draws rows under headings. Where the whole is wider than `limit`, the first column gives way.
pub fn draw(headings: &[&str], rows: &[Vec<String>], limit: Option<usize>) -> String {
    let length = |text: &str| text.chars().count();
    let mut widths: Vec<usize> = headings.iter().map(|heading| length(heading)).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(length(cell));
        }
    }
    let total: usize = widths.iter().map(|width| width + 3).sum::<usize>() + 1;
    if let (Some(limit), Some(first)) = (limit, widths.first_mut()) {
        const LEAST: usize = 8;
        *first = first.saturating_sub(total.saturating_sub(limit)).max(LEAST.min(*first));
    }

    let rule: String = widths.iter().map(|width| format!("+{}", "-".repeat(width + 2))).collect::<String>() + "+\n";
    let line = |cells: &[String]| {
        let cells = cells.iter().zip(&widths).map(|(cell, width)| format!("| {:width$} ", shorten(cell, *width)));
        cells.collect::<String>() + "|\n"
    };
    let headings: Vec<String> = headings.iter().map(|heading| heading.to_string()).collect();
    let body: String = rows.iter().map(|row| line(row)).collect();
    let end = if rows.is_empty() { "" } else { &rule };
    format!("{rule}{}{rule}{body}{end}", line(&headings))
}

/// The end of a name tells images apart better than its beginning: `…org/team/service`.
fn shorten(text: &str, width: usize) -> String {
    let length = text.chars().count();
    match length > width {
        true => std::iter::once('…').chain(text.chars().skip(length + 1 - width)).collect(),
        false => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_its_cells_or_as_the_terminal() {
        let rows = vec![vec!["registry.example/team/service".to_string(), "1".into()]];
        let wide = "+-------------------------------+---+\n\
                    | name                          | v |\n\
                    +-------------------------------+---+\n\
                    | registry.example/team/service | 1 |\n\
                    +-------------------------------+---+\n";
        assert_eq!(draw(&["name", "v"], &rows, None), wide);
        let narrow = draw(&["name", "v"], &rows, Some(24));
        assert!(narrow.contains("| …le/team/service | 1 |"), "{narrow}");
        assert!(narrow.lines().all(|line| line.chars().count() == 24), "{narrow}");
    }
}
