//! Tables as every command prints them: left-aligned columns, at least two spaces apart.

use std::fmt::Write as _;

use chrono::{DateTime, TimeDelta, Utc};
use flynn_types::time::GoTime;

#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn with_header(columns: &[&str]) -> Self {
        let mut table = Self::default();
        table.row(columns.iter().map(|column| (*column).to_owned()));
        table
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        // A line break in a cell would tear the table.
        self.rows.push(cells.into_iter().map(|cell| cell.replace(['\n', '\r'], " ")).collect());
    }

    pub(super) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, "{cell:<width$}  "); // writing to a string cannot fail
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// A rough age (spec flynn-host section 15).
pub(super) fn age(since: GoTime, now: DateTime<Utc>) -> String {
    let Some(since) = since.0 else { return String::new() };
    let age = (now - since).max(TimeDelta::zero());
    let (seconds, minutes, hours, days) = (age.num_seconds(), age.num_minutes(), age.num_hours(), age.num_days());
    let text = match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if days < 14 => format!("{days} days"),
        () if days < 90 => format!("{} weeks", days / 7),
        () if days < 730 => format!("{} months", days / 30),
        () => format!("{} years", days / 365),
    };
    format!("{text} ago")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_left_aligned_and_two_spaces_apart() {
        let mut table = Table::with_header(&["ID", "STATE", "ERROR"]);
        table.row(["host-1".into(), "running".into(), String::new()]);
        table.row(["h".into(), "done".into(), "two\nlines".into()]);
        assert_eq!(table.render(), "ID      STATE    ERROR\nhost-1  running\nh       done     two lines\n");
    }

    #[test]
    fn ages_are_rough() {
        let now = Utc::now();
        for (seconds, text) in [
            (0, "Less than a second ago"),
            (30, "30 seconds ago"),
            (60, "About a minute ago"),
            (300, "5 minutes ago"),
            (3600, "About an hour ago"),
            (3 * 3600, "3 hours ago"),
            (48 * 3600, "2 days ago"),
            (21 * 86400, "3 weeks ago"),
            (120 * 86400, "4 months ago"),
            (730 * 86400, "2 years ago"),
        ] {
            assert_eq!(age((now - TimeDelta::seconds(seconds)).into(), now), text, "{seconds}");
        }
        assert_eq!(age(GoTime::UNSET, now), "");
    }
}
