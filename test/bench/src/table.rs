//! The table at the end, and the statistics in it.

use std::fmt::Write as _;
use std::time::Duration;

/// Measurements of one thing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series(Vec<f64>);

impl Series {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn push_ms(&mut self, time: Duration) {
        self.push(time.as_secs_f64() * 1000.0);
    }

    /// The value below which `share` (0 to 1) of the measurements lie.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        // Rounded to an index in range: a share is at most 1.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let index = (share * last as f64).round() as usize;
        sorted.get(index.min(last)).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    fn spread(&self) -> String {
        format!("{:.1} ({:.1} to {:.1})", self.median(), self.quantile(0.0), self.quantile(1.0))
    }
}

/// Lines of the table.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<[String; 5]>,
}

impl Table {
    /// A comparison of times or amounts where less is better; `limit` is the largest allowed ratio to the peer.
    pub(crate) fn compare(&mut self, what: &str, ours: &Series, peer: &str, theirs: &Series, limit: f64) {
        let ratio = ours.median() / theirs.median();
        let verdict = if ratio <= limit { "ok" } else { "MISSED" };
        self.rows.push([
            what.to_owned(),
            ours.spread(),
            format!("{peer} {}", theirs.spread()),
            format!("{ratio:.2} ×"),
            format!("≤ {limit} × {verdict}"),
        ]);
    }

    /// A comparison of rates where more is better; `goal` is the smallest allowed ratio to the peer, if there is one.
    pub(crate) fn compare_rate(&mut self, what: &str, ours: &Series, peer: &str, theirs: &Series, goal: Option<f64>) {
        let ratio = ours.median() / theirs.median();
        let verdict = goal.map(|goal| format!("≥ {goal} × {}", if ratio >= goal { "ok" } else { "MISSED" }));
        self.rows.push([
            what.to_owned(),
            ours.spread(),
            format!("{peer} {}", theirs.spread()),
            format!("{ratio:.2} ×"),
            verdict.unwrap_or_else(|| "-".to_owned()),
        ]);
    }

    /// A figure with a limit of its own.
    pub(crate) fn bound(&mut self, what: &str, ours: f64, limit: f64) {
        let verdict = if ours <= limit { "ok" } else { "MISSED" };
        self.rows.push([
            what.to_owned(),
            format!("{ours:.2}"),
            "-".to_owned(),
            "-".to_owned(),
            format!("≤ {limit} {verdict}"),
        ]);
    }

    /// A figure for information.
    pub(crate) fn note(&mut self, what: &str, ours: &str, peer: &str) {
        self.rows.push([what.to_owned(), ours.to_owned(), peer.to_owned(), "-".to_owned(), "-".to_owned()]);
    }

    pub(crate) fn render(&self) -> String {
        let head = ["WHAT", "FLYNN", "PEER", "RATIO", "GOAL"].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(&head).chain(&self.rows).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..head.len()).map(width).collect();
        let mut text = String::new();
        for row in rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, "{cell:<width$}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}
