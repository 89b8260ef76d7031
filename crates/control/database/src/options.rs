//! Where the database is.

use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// Why the environment does not say where the database is.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum OptionsError {
    #[error("neither FLYNN_POSTGRES nor PGHOST says where the database is")]
    NoHost,
    #[error("the port in PGPORT is a number from 1 to 65535, not {0:?}")]
    Port(String),
}

/// The leader of the discoverd service in `FLYNN_POSTGRES`, or the server that PostgreSQL's own variables name: `PGHOST`
/// (a path is the folder of a Unix socket), `PGPORT`, `PGUSER`, `PGPASSWORD`, `PGDATABASE` (spec controller-api section
/// 1.2). An empty variable counts as unset.
pub fn options_from_vars(vars: &impl Fn(&str) -> Option<String>) -> Result<PgConnectOptions, OptionsError> {
    let vars = |name: &str| vars(name).filter(|value| !value.is_empty());
    let host = match (vars("FLYNN_POSTGRES"), vars("PGHOST")) {
        (Some(service), _) => format!("leader.{service}.discoverd"),
        (None, Some(host)) => host,
        (None, None) => return Err(OptionsError::NoHost),
    };
    let mut options = PgConnectOptions::new_without_pgpass().ssl_mode(PgSslMode::Disable);
    options = if host.starts_with('/') { options.socket(host) } else { options.host(&host) };
    if let Some(text) = vars("PGPORT") {
        let port = text.parse().ok().filter(|port| *port != 0);
        options = options.port(port.ok_or(OptionsError::Port(text))?);
    }
    if let Some(user) = vars("PGUSER") {
        options = options.username(&user);
    }
    if let Some(password) = vars("PGPASSWORD") {
        options = options.password(&password);
    }
    if let Some(name) = vars("PGDATABASE") {
        options = options.database(&name);
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<PgConnectOptions, OptionsError> {
        options_from_vars(&|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn the_leader_of_the_service_goes_before_a_host() {
        let options = read(&[("FLYNN_POSTGRES", "postgres"), ("PGHOST", "elsewhere"), ("PGPORT", "")]).expect("valid");
        assert_eq!((options.get_host(), options.get_port()), ("leader.postgres.discoverd", 5432));
        let all = [("PGHOST", "db"), ("PGPORT", "6000"), ("PGUSER", "me"), ("PGDATABASE", "mine")];
        let options = read(&all).expect("valid");
        let read = (options.get_host(), options.get_port(), options.get_username(), options.get_database());
        assert_eq!(read, ("db", 6000, "me", Some("mine")));
    }

    #[test]
    fn a_path_is_the_folder_of_a_socket() {
        let options = read(&[("PGHOST", "/run/postgresql")]).expect("valid");
        assert_eq!(options.get_socket().expect("a socket").to_str(), Some("/run/postgresql"));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        assert_eq!(read(&[("FLYNN_POSTGRES", "")]).unwrap_err(), OptionsError::NoHost);
        for port in ["0", "65536", "five"] {
            let err = read(&[("PGHOST", "db"), ("PGPORT", port)]).unwrap_err();
            assert_eq!(err, OptionsError::Port(port.to_owned()));
        }
    }
}
