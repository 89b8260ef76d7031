//! What is asked of servers, and told to one's own.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection};

use crate::lsn::{At, Lsn};

/// Longest time for a connection: servers are near.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// What generations are called among the names of replication origins, before their number and `:` and their begin.
const GENERATION: &str = "flynn:";
/// So many generations stay known.
const KEPT_GENERATIONS: usize = 100;

/// Why a server gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    #[error("the server does not take a connection in {} s", CONNECT_LIMIT.as_secs())]
    Late,
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    #[error("the server's answer {0:?} cannot be understood")]
    Answer(String),
}

/// What a server's log holds: who made it, and where which generation begins in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct History {
    /// Made by `initdb`, the same in all copies.
    pub(crate) system: i64,
    /// A primary writes each of its generations before anything else of it.
    pub(crate) generations: BTreeMap<u64, Lsn>,
    pub(crate) end: Lsn,
}

impl History {
    pub(crate) fn position(&self) -> At {
        let generation = self.generations.last_key_value().map_or(0, |(generation, _)| *generation);
        At { generation, offset: self.end }
    }
}

/// A connection to a server.
#[derive(Debug)]
pub(crate) struct Sql(PgConnection);

/// Options of connections as the platform's user.
pub(crate) fn options(host: &str, port: u16) -> PgConnectOptions {
    let options = PgConnectOptions::new_without_pgpass().host(host).port(port).database("postgres").username("flynn");
    let options = options.ssl_mode(PgSslMode::Disable).application_name("flynn-postgres");
    options.disable_statement_logging()
}

impl Sql {
    pub(crate) async fn connect(options: &PgConnectOptions) -> Result<Self, SqlError> {
        let connecting = PgConnection::connect_with(options);
        Ok(Self(tokio::time::timeout(CONNECT_LIMIT, connecting).await.map_err(|_| SqlError::Late)??))
    }

    pub(crate) async fn close(self) {
        let _ = tokio::time::timeout(CONNECT_LIMIT, self.0.close()).await; // a courtesy
    }

    pub(crate) async fn execute(&mut self, sql: impl Into<String>) -> Result<(), SqlError> {
        self.0.execute(AssertSqlSafe(sql.into())).await?;
        Ok(())
    }

    /// Reads one value, or nothing where there is no row or NULL.
    pub(crate) async fn text(&mut self, sql: &str) -> Result<Option<String>, SqlError> {
        let row: Option<Option<String>> =
            sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_optional(&mut self.0).await?;
        Ok(row.flatten())
    }

    pub(crate) async fn truth(&mut self, sql: &str) -> Result<bool, SqlError> {
        Ok(sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut self.0).await?)
    }

    pub(crate) async fn texts(&mut self, sql: &str) -> Result<Vec<String>, SqlError> {
        Ok(sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(&mut self.0).await?)
    }

    async fn lsn(&mut self, sql: &str) -> Result<Lsn, SqlError> {
        let text = self.text(sql).await?.unwrap_or_default();
        text.parse().map_err(|_| SqlError::Answer(text))
    }

    pub(crate) async fn in_recovery(&mut self) -> Result<bool, SqlError> {
        self.truth("SELECT pg_is_in_recovery()").await
    }

    /// The end of what a standby has replayed, or of what a primary has on disk.
    pub(crate) async fn end(&mut self) -> Result<Lsn, SqlError> {
        self.lsn(
            "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END)::text",
        )
        .await
    }

    /// Where the oldest log begins that can be sent, as far as files tell.
    pub(crate) async fn oldest_log(&mut self) -> Result<Lsn, SqlError> {
        // Names are a timeline, and twice eight digits: the log in steps of 4 GB, and the segment in that.
        let oldest = "SELECT min(substr(name, 9)) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'";
        let size = "SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'";
        let (name, size) = (self.text(oldest).await?.unwrap_or_default(), self.text(size).await?.unwrap_or_default());
        log_begin(&name, &size).ok_or_else(|| SqlError::Answer(name))
    }

    /// Leaves this slot for a standby, makes it if need be, and removes all others with their standbys' connections.
    pub(crate) async fn serve_only(&mut self, slot: Option<&str>) -> Result<(), SqlError> {
        let slots = "SELECT slot_name || ' ' || coalesce(active_pid, 0) || ' ' || coalesce(wal_status, 'lost') \
                     FROM pg_replication_slots WHERE slot_type = 'physical' AND starts_with(slot_name, 'flynn_')";
        let mut found = false;
        for line in self.texts(slots).await? {
            let parts: Vec<&str> = line.split(' ').collect();
            let [name, pid, status] = parts[..] else { return Err(SqlError::Answer(line)) };
            if Some(name) == slot && status != "lost" {
                found = true;
                continue;
            }
            if pid != "0" {
                self.execute(format!("SELECT pg_terminate_backend({pid}, 10000)")).await?;
            }
            self.execute(format!("SELECT pg_drop_replication_slot('{name}')")).await?;
        }
        if let Some(slot) = slot.filter(|_| !found) {
            self.execute(format!("SELECT pg_create_physical_replication_slot('{slot}', true)")).await?;
        }
        Ok(())
    }

    /// Of a log that grows meanwhile, a part.
    pub(crate) async fn history(&mut self) -> Result<History, SqlError> {
        let generations = self.generations().await?; // before the end: what is read is in the log before it
        let system = self.text("SELECT system_identifier::text FROM pg_control_system()").await?.unwrap_or_default();
        let system = system.parse().map_err(|_| SqlError::Answer(system))?;
        Ok(History { system, generations, end: self.end().await? })
    }

    pub(crate) async fn position(&mut self) -> Result<At, SqlError> {
        let generations = self.generations().await?;
        Ok(History { system: 0, generations, end: self.end().await? }.position())
    }

    /// The generations that the log has, each with its begin.
    ///
    /// They are names of replication origins: the one shared catalog that is in the log, that anybody may fill with
    /// short texts, and that no dump holds. A table would come back with another cluster's generations by a restore.
    async fn generations(&mut self) -> Result<BTreeMap<u64, Lsn>, SqlError> {
        let sql = format!("SELECT roname FROM pg_replication_origin WHERE starts_with(roname, '{GENERATION}')");
        let names = self.texts(&sql).await?;
        names.iter().map(|name| generation(name).ok_or_else(|| SqlError::Answer(name.clone()))).collect()
    }

    /// Writes into the log that a generation begins, if it is not there.
    pub(crate) async fn begin_generation(&mut self, number: u64, begin: Lsn) -> Result<(), SqlError> {
        let known = self.generations().await?;
        if !known.contains_key(&number) {
            self.execute(format!("SELECT pg_replication_origin_create('{GENERATION}{number}:{begin}')")).await?;
        }
        for (old, begin) in known.iter().rev().skip(KEPT_GENERATIONS) {
            self.execute(format!("SELECT pg_replication_origin_drop('{GENERATION}{old}:{begin}')")).await?;
        }
        Ok(())
    }

    /// A text as a literal of SQL.
    pub(crate) async fn literal(&mut self, text: &str) -> Result<String, SqlError> {
        Ok(sqlx::query_scalar("SELECT quote_literal($1)").bind(text).fetch_one(&mut self.0).await?)
    }
}

fn log_begin(name: &str, segment_size: &str) -> Option<Lsn> {
    let part = |range| u64::from_str_radix(name.get(range)?, 16).ok();
    let (step, segment) = (part(0..8)?, part(8..16)?);
    Some(Lsn((step << 32).checked_add(segment.checked_mul(segment_size.parse().ok()?)?)?))
}

fn generation(name: &str) -> Option<(u64, Lsn)> {
    let (number, begin) = name.strip_prefix(GENERATION)?.split_once(':')?;
    Some((number.parse().ok()?, begin.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_log_files_tell_where_they_begin() {
        assert_eq!(log_begin("0000000A00000003", "16777216"), Some(Lsn(0xA_0300_0000)));
        for (name, size) in [("", "16777216"), ("0000000A", "16777216"), ("0000000A00000003", "")] {
            assert_eq!(log_begin(name, size), None, "{name} {size}");
        }
    }

    #[test]
    fn generations_are_names_with_their_begin() {
        assert_eq!(generation("flynn:7:0/3000060"), Some((7, Lsn(0x300_0060))));
        for wrong in ["flynn:7", "flynn:x:0/0", "flynn:7:0", "pg:7:0/0"] {
            assert_eq!(generation(wrong), None, "{wrong}");
        }
        let history = History { system: 1, generations: [(2, Lsn(5)), (9, Lsn(7))].into(), end: Lsn(8) };
        assert_eq!(history.position(), At { generation: 9, offset: Lsn(8) });
        assert_eq!(History::default().position(), At::default());
    }
}
