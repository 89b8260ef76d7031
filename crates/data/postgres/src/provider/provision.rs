//! A database with its own role: made, and removed.

use rand::Rng as _;
use tracing::warn;

use crate::sql::{Sql, SqlError};

/// What an app connects with. All parts are 32 hexadecimal digits: safe in SQL and in URLs.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: String,
    pub(super) database: String,
}

/// Names a resource: `/databases/<user>:<database>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResourceId {
    user: String,
    database: String,
}

impl Credentials {
    pub(super) fn random() -> Self {
        let name = || hex::encode(rand::rng().random::<[u8; 16]>());
        Self { user: name(), password: name(), database: name() }
    }

    pub(super) fn id(&self) -> ResourceId {
        ResourceId { user: self.user.clone(), database: self.database.clone() }
    }
}

impl std::fmt::Display for ResourceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "/databases/{}:{}", self.user, self.database)
    }
}

impl ResourceId {
    /// Existing clusters made names of other lengths too, but only of these characters.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (user, database) = text.strip_prefix("/databases/").unwrap_or(text).split_once(':')?;
        let name = |text: &str| {
            let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
            (plain && (1..=63).contains(&text.len())).then(|| text.to_owned())
        };
        Some(Self { user: name(user)?, database: name(database)? })
    }
}

/// Makes role and database. What was made before a step that fails is removed again.
pub(super) async fn create(sql: &mut Sql, credentials: &Credentials) -> Result<(), SqlError> {
    let Credentials { user, password, database } = credentials;
    let steps = [
        format!("CREATE ROLE \"{user}\" LOGIN PASSWORD '{password}'"),
        format!("CREATE DATABASE \"{database}\" OWNER \"{user}\""),
        format!("REVOKE CONNECT ON DATABASE \"{database}\" FROM PUBLIC"),
        format!("GRANT ALL ON DATABASE \"{database}\" TO \"{user}\""),
    ];
    for step in steps {
        if let Err(err) = sql.execute(step).await {
            if let Err(left) = remove(sql, &credentials.id()).await {
                warn!(id = %credentials.id(), err = &left as &dyn std::error::Error, "left behind");
            }
            return Err(err);
        }
    }
    Ok(())
}

/// Removes database and role, with the connections to it. What is gone already is no error: the answer to an earlier
/// request may have been lost.
pub(super) async fn remove(sql: &mut Sql, id: &ResourceId) -> Result<(), SqlError> {
    let ResourceId { user, database } = id;
    sql.execute(format!("DROP DATABASE IF EXISTS \"{database}\" WITH (FORCE)")).await?;
    sql.execute(format!("DROP ROLE IF EXISTS \"{user}\"")).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_two_names_that_need_no_quotes() {
        let credentials = Credentials::random();
        let id = credentials.id().to_string();
        assert_eq!(ResourceId::parse(&id), Some(credentials.id()));
        let digits = |text: &str| text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        assert!([&credentials.user, &credentials.password, &credentials.database].iter().all(|text| digits(text)));
        for wrong in ["", "x", "/databases/x", "/databases/x:", ":y", "a:b:c", "a\"b:c", "a:b c", "/other/a:b"] {
            assert_eq!(ResourceId::parse(wrong), None, "{wrong:?}");
        }
    }
}
