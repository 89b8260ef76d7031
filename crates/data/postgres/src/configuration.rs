//! The server's configuration files. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use flynn_types::sirenia::PeerId;

use crate::tunables;

/// What `synchronous_standby_names` names when nobody may acknowledge: no peer is called so, peers are UUIDs.
const NOBODY: &str = "flynn-nobody";

/// Who has a commit on disk before it is acknowledged, besides the server itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Acknowledged {
    /// Nobody: a singleton.
    Alone,
    /// The sync.
    By(PeerId),
    /// Never acknowledged.
    Never,
}

/// Where a standby streams from.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) password: String,
    /// The slot that the upstream keeps for this standby: a server that is another peer has none of this name.
    pub(crate) slot: String,
}

/// What the server is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    Primary { acknowledged: Acknowledged, writable: bool },
    Standby { source: Option<Source> },
}

/// All that `postgresql.conf` depends on.
#[derive(Clone)]
pub(crate) struct Configuration<'a> {
    pub(crate) listen: IpAddr,
    pub(crate) port: u16,
    pub(crate) id: &'a PeerId,
    pub(crate) mode: &'a Mode,
    pub(crate) tunables: &'a BTreeMap<String, String>,
    /// Number of this text: the server shows it once it has read it.
    pub(crate) edition: u64,
}

/// The same for every peer at every time (spec appliances section 5.3).
const FIXED: &[(&str, &str)] = &[
    ("unix_socket_directories", ""),
    ("ssl", "off"),
    ("dynamic_shared_memory_type", "posix"),
    ("wal_level", "replica"),
    ("max_wal_senders", "15"),
    // Its launcher is one more process that does nothing.
    ("max_logical_replication_workers", "0"),
    ("max_replication_slots", "15"),
    // A commit is acknowledged when the sync has it on disk: `remote_write` loses it when both machines lose power.
    ("synchronous_commit", "on"),
    ("hot_standby", "on"),
    ("hot_standby_feedback", "on"),
    ("max_standby_archive_delay", "30s"),
    ("max_standby_streaming_delay", "30s"),
    ("wal_receiver_status_interval", "10s"),
    ("wal_receiver_timeout", "30s"),
    ("wal_sender_timeout", "30s"),
    ("wal_retrieve_retry_interval", "1s"),
    ("recovery_target_timeline", "latest"),
    ("log_destination", "stderr"),
    ("logging_collector", "off"),
    ("log_timezone", "UTC"),
    ("log_min_messages", "LOG"),
    ("timezone", "UTC"),
    ("datestyle", "iso, mdy"),
    ("client_encoding", "UTF8"),
    ("default_text_search_config", "pg_catalog.english"),
    ("password_encryption", "scram-sha-256"),
    // Compiling queries costs short ones more than it gives.
    ("jit", "off"),
];

impl Configuration<'_> {
    /// Text of `postgresql.conf`.
    pub(crate) fn text(&self) -> String {
        let mut text = String::from("# Written by flynn-postgres whenever it changes; edits are lost.\n");
        let mut set = |name: &str, value: &str| {
            let _ = writeln!(text, "{name} = {}", quoted(value)); // a String takes everything
        };
        for (name, value) in tunables::effective(self.tunables) {
            set(name, value);
        }
        for (name, value) in FIXED {
            set(name, value);
        }
        set("listen_addresses", &self.listen.to_string());
        set("port", &self.port.to_string());
        set("cluster_name", &self.id.0);
        set("log_line_prefix", &format!("{} %m ", self.id.0));
        set("flynn.edition", &self.edition.to_string());
        for (name, value) in self.mode.settings() {
            set(name, &value);
        }
        text
    }

    /// Text of `pg_hba.conf`. The method `md5` takes passwords that are stored as SCRAM verifiers by SCRAM.
    pub(crate) fn access(&self) -> String {
        let own = if self.listen.is_unspecified() { "127.0.0.1".parse().unwrap_or(self.listen) } else { self.listen };
        let bits = if own.is_ipv4() { 32 } else { 128 };
        let mut text = String::from("# TYPE DATABASE USER ADDRESS METHOD\nhost all postgres 127.0.0.1/32 trust\n");
        if own.to_string() != "127.0.0.1" {
            let _ = writeln!(text, "host all postgres {own}/{bits} trust");
        }
        text.push_str("host all all all md5\nhost replication flynn all md5\n");
        text
    }
}

impl Mode {
    fn settings(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Primary { acknowledged, writable } => vec![
                ("synchronous_standby_names", acknowledged.names()),
                ("default_transaction_read_only", if *writable { "off" } else { "on" }.to_owned()),
                // A crash of one connection's process does not need a new primary.
                ("restart_after_crash", "on".to_owned()),
            ],
            Self::Standby { source } => {
                let mut settings = vec![
                    // In force at once when it is promoted.
                    ("synchronous_standby_names", Acknowledged::Never.names()),
                    ("default_transaction_read_only", "on".to_owned()),
                    ("restart_after_crash", "off".to_owned()),
                ];
                if let Some(source) = source {
                    settings.push(("primary_conninfo", source.conninfo(None)));
                    settings.push(("primary_slot_name", source.slot.clone()));
                }
                settings
            }
        }
    }
}

impl Acknowledged {
    fn names(&self) -> String {
        match self {
            Self::Alone => String::new(),
            Self::By(id) => format!("\"{}\"", id.0.replace('"', "\"\"")),
            Self::Never => format!("\"{NOBODY}\""),
        }
    }
}

impl Source {
    /// How libpq connects to it; the name of the application is that of the cluster, the peer's identity, unless given.
    pub(crate) fn conninfo(&self, application: Option<&str>) -> String {
        let mut parts =
            vec![("host", self.host.clone()), ("port", self.port.to_string()), ("user", "flynn".to_owned())];
        parts.push(("password", self.password.clone()));
        parts.push(("connect_timeout", "5".to_owned()));
        parts.extend(application.map(|name| ("application_name", name.to_owned())));
        let parts = parts.iter().map(|(name, value)| {
            let value = value.replace('\\', "\\\\").replace('\'', "\\'");
            format!("{name}='{value}'")
        });
        parts.collect::<Vec<_>>().join(" ")
    }
}

/// A value of `postgresql.conf`. A line feed would begin another setting.
fn quoted(value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n");
    format!("'{value}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(mode: Mode, tunables: &[(&str, &str)]) -> String {
        let tunables = tunables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let id = PeerId("7b".into());
        let listen = "0.0.0.0".parse().unwrap();
        Configuration { listen, port: 5432, id: &id, mode: &mode, tunables: &tunables, edition: 3 }.text()
    }

    fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
        // As the server reads it: the last one counts.
        text.lines().rev().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "))
    }

    #[test]
    fn what_acknowledges_is_named_and_a_standby_never_does() {
        let primary = |acknowledged| Mode::Primary { acknowledged, writable: true };
        for (mode, names, read_only) in [
            (primary(Acknowledged::Alone), "''", "'off'"),
            (primary(Acknowledged::By(PeerId("9c".into()))), "'\"9c\"'", "'off'"),
            (primary(Acknowledged::Never), "'\"flynn-nobody\"'", "'off'"),
            (Mode::Primary { acknowledged: Acknowledged::Alone, writable: false }, "''", "'on'"),
            (Mode::Standby { source: None }, "'\"flynn-nobody\"'", "'on'"),
        ] {
            let text = text(mode, &[]);
            assert_eq!(value(&text, "synchronous_standby_names"), Some(names));
            assert_eq!(value(&text, "default_transaction_read_only"), Some(read_only));
            assert_eq!(value(&text, "synchronous_commit"), Some("'on'"));
            assert_eq!(value(&text, "primary_conninfo"), None);
        }
    }

    #[test]
    fn a_password_of_any_characters_stays_one_value() {
        let source =
            Source { host: "10.0.0.2".into(), port: 5432, password: "a'b\\c\nfsync=off".into(), slot: "s".into() };
        assert_eq!(
            source.conninfo(Some("x")),
            "host='10.0.0.2' port='5432' user='flynn' password='a\\'b\\\\c\nfsync=off' connect_timeout='5' application_name='x'"
        );
        let text = text(Mode::Standby { source: Some(source) }, &[]);
        let conninfo = value(&text, "primary_conninfo").unwrap();
        assert!(conninfo.contains(r"password=''a\\''b\\\\c\nfsync=off''"), "{conninfo}");
        assert_eq!(value(&text, "primary_slot_name"), Some("'s'"));
    }

    #[test]
    fn tunables_change_only_what_they_may() {
        let primary = || Mode::Primary { acknowledged: Acknowledged::Alone, writable: true };
        let text = text(primary(), &[("max_connections", "50"), ("work_mem", "lots"), ("fsync", "off")]);
        assert_eq!(value(&text, "max_connections"), Some("'50'"));
        assert_eq!(value(&text, "work_mem"), Some("'4MB'"), "no value for it: the default stays");
        assert_eq!(value(&text, "fsync"), None);
    }
}
