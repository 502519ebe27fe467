//! A table of text, drawn with + - |, that fits the terminal.

/// A column, and what becomes of it where the table is wider than the terminal.
#[derive(Clone, Copy)]
pub struct Column {
    pub heading: &'static str,
    pub cut: Cut,
    /// left out where cutting is not enough; the highest number goes first, 0 stays
    pub rank: u8,
}

/// Which part of a text gives way to an ellipsis.
#[derive(Clone, Copy, PartialEq)]
pub enum Cut {
    Never,
    Start,
    End,
}

pub const fn column(heading: &'static str, cut: Cut, rank: u8) -> Column {
    Column { heading, cut, rank }
}

/// The width of the terminal. None off a terminal: what is piped is never cut.
pub fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then_some(size.ws_col.into())
}

/// Draws rows under headings, no wider than `limit` as far as that leaves anything to read.
pub fn draw(columns: &[Column], rows: &[Vec<String>], limit: Option<usize>) -> String {
    let mut natural: Vec<usize> = columns.iter().map(|column| length(column.heading)).collect();
    for row in rows {
        for (width, cell) in natural.iter_mut().zip(row) {
            *width = (*width).max(length(cell));
        }
    }
    let shown = fit(columns, &natural, limit.unwrap_or(usize::MAX));

    let rule: String = shown.iter().map(|(_, width)| format!("+{}", "-".repeat(width + 2))).collect::<String>() + "+\n";
    let line = |cells: &[String], cut: fn(&Column) -> Cut| {
        let cell = |(number, width): &(usize, usize)| {
            let text = cells.get(*number).map(String::as_str).unwrap_or_default();
            format!("| {:width$} ", shorten(text, *width, cut(&columns[*number])))
        };
        shown.iter().map(cell).collect::<String>() + "|\n"
    };
    let headings: Vec<String> = columns.iter().map(|column| column.heading.into()).collect();
    let headings = line(&headings, |_| Cut::End);
    let body: String = rows.iter().map(|row| line(row, |column| column.cut)).collect();
    let end = if rows.is_empty() { "" } else { &rule };
    format!("{rule}{headings}{rule}{body}{end}")
}

/// The columns that are shown, by number, and their widths. Long texts are cut, then columns left out, then texts cut to
/// next to nothing.
fn fit(columns: &[Column], natural: &[usize], limit: usize) -> Vec<(usize, usize)> {
    const LEGIBLE: usize = 12;
    const LEAST: usize = 3;
    let mut shown: Vec<(usize, usize)> = natural.iter().copied().enumerate().collect();
    let excess =
        |shown: &[(usize, usize)]| (shown.iter().map(|(_, width)| width + 3).sum::<usize>() + 1).saturating_sub(limit);
    let cut = |shown: &mut Vec<(usize, usize)>, least: usize| {
        for place in 0..shown.len() {
            let (number, width) = shown[place];
            if columns[number].cut != Cut::Never {
                shown[place].1 = width.saturating_sub(excess(shown)).max(least.min(width));
            }
        }
    };
    loop {
        let mut cut_down = shown.clone();
        cut(&mut cut_down, LEGIBLE);
        let dispensable = (0..shown.len()).filter(|place| columns[shown[*place].0].rank > 0);
        match dispensable.max_by_key(|place| columns[shown[*place].0].rank) {
            Some(place) if excess(&cut_down) > 0 => drop(shown.remove(place)),
            _ => {
                cut(&mut cut_down, LEAST);
                return cut_down;
            }
        }
    }
}

/// The end of a name tells images apart better than its beginning (`…org/team/service`); a command is told by its beginning.
fn shorten(text: &str, width: usize, cut: Cut) -> String {
    let excess = length(text).saturating_sub(width);
    match cut {
        Cut::Start if excess > 0 => std::iter::once('…').chain(text.chars().skip(excess + 1)).collect(),
        Cut::End if excess > 0 => text.chars().take(width.saturating_sub(1)).chain(['…']).collect(),
        _ => text.into(),
    }
}

fn length(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] = [
        column("name", Cut::Start, 0),
        column("v", Cut::End, 0),
        column("digest", Cut::Never, 2),
        column("age", Cut::Never, 1),
    ];

    fn drawn(limit: Option<usize>) -> String {
        let row = ["registry.example/team/service", "1", "0123456789ab", "9 months"].map(String::from).to_vec();
        draw(&COLUMNS, &[row], limit)
    }

    #[test]
    fn a_table_is_as_wide_as_its_cells_or_as_the_terminal() {
        let wide = "+-------------------------------+---+--------------+----------+\n\
                    | name                          | v | digest       | age      |\n\
                    +-------------------------------+---+--------------+----------+\n\
                    | registry.example/team/service | 1 | 0123456789ab | 9 months |\n\
                    +-------------------------------+---+--------------+----------+\n";
        assert_eq!(drawn(None), wide);
        let cases = [
            (50, "| …le/team/service | 1 | 0123456789ab | 9 months |"),
            (46, "| …eam/service | 1 | 0123456789ab | 9 months |"),
            (45, "| …stry.example/team/service | 1 | 9 months |"),
            (24, "| …le/team/service | 1 |"),
            (12, "| …ice | 1 |"),
            (1, "| …ce | 1 |"),
        ];
        for (limit, row) in cases {
            let narrow = drawn(Some(limit));
            assert!(narrow.contains(row), "{limit}\n{narrow}");
            assert!(narrow.lines().all(|line| length(line) == length(row)), "{narrow}");
        }
        assert!(draw(&COLUMNS, &[], Some(80)).ends_with("+\n"));
    }
}
