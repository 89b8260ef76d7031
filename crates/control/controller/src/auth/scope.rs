//! What tokens allow (spec controller-api section 2.1).

use std::collections::BTreeMap;

use axum::http::Method;

/// What a credential may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Access {
    #[default]
    All,
    /// Permissions by app id.
    Apps(BTreeMap<String, Vec<String>>),
}

/// One app and what is allowed with it.
pub(crate) type Grant = (String, Vec<String>);

fn is_everything(permission: &str) -> bool {
    matches!(permission, "*" | "cluster:admin")
}

impl Access {
    /// A token without scopes and grants is of the time before them, and allows everything (A20).
    pub(crate) fn of_token(scopes: Vec<String>, grants: Vec<Grant>) -> Self {
        let everything = scopes.is_empty() && grants.is_empty() || scopes.iter().any(|scope| is_everything(scope));
        if everything { Self::All } else { Self::Apps(grants.into_iter().collect()) }
    }

    pub(crate) fn allows(&self, method: &Method, path: &str) -> bool {
        let Self::Apps(grants) = self else { return true };
        let mut segments = path.split('/').filter(|segment| !segment.is_empty());
        let (Some("apps"), Some(app)) = (segments.next(), segments.next()) else { return false };
        let Some(permissions) = grants.get(app) else { return false };
        let sufficient: &[&str] = match *method {
            Method::GET | Method::HEAD => &["app:read", "app:write", "app:deploy"],
            _ => &["app:write", "app:deploy"],
        };
        permissions.iter().any(|permission| is_everything(permission) || sufficient.contains(&permission.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a20_to_a23_tokens_allow_what_they_grant() {
        let access = |scopes: &[&str], grants: &[(&str, &[&str])]| {
            let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
            let grants = grants.iter().map(|(app, permissions)| ((*app).to_owned(), own(permissions))).collect();
            Access::of_token(own(scopes), grants)
        };
        for everything in [access(&[], &[]), access(&["*"], &[]), access(&["x", "cluster:admin"], &[("a", &[])])] {
            assert_eq!(everything, Access::All);
        }
        let scoped = access(&["x"], &[("a", &["app:read"]), ("b", &["app:deploy"]), ("c", &["*"]), ("d", &["other"])]);
        for (method, path, allowed) in [
            (Method::GET, "/apps/a", true),
            (Method::HEAD, "/apps/a/release", true),
            (Method::POST, "/apps/a", false),
            (Method::POST, "/apps/a/deploy", false),
            (Method::GET, "/apps/b", true),
            (Method::POST, "/apps/b/deploy", true),
            (Method::PUT, "/apps/b/scale/r", true),
            (Method::DELETE, "/apps/c", true),
            (Method::GET, "/apps/d", false),
            (Method::GET, "/apps/e", false),
            (Method::GET, "/apps", false),
            (Method::GET, "/releases", false),
            (Method::GET, "/events", false),
        ] {
            assert_eq!(scoped.allows(&method, path), allowed, "{method} {path}");
        }
    }
}
