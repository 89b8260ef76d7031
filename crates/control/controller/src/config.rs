//! Settings (spec controller-api section 1.2).

use std::time::Duration;

use crate::auth::{Keys, TokenError, TokenKey};

/// Longer than what the database may take for a statement.
const REQUEST_LIMIT: Duration = Duration::from_secs(90);

/// What the API needs to know besides its database.
#[derive(Clone, Debug)]
pub struct Config {
    pub keys: Keys,
    /// Who signs access tokens; without one none is accepted.
    pub tokens: Option<TokenKey>,
    /// PEM, served at `/ca-cert`.
    pub ca_cert: String,
    /// The cluster's domain; empty for no default routes.
    pub default_route_domain: String,
    /// Varies the names that apps are given.
    pub name_seed: Vec<u8>,
    /// Log who did what.
    pub audit: bool,
    /// Origins that browsers may call from, with `*` and `?` as wildcards; all without.
    pub cors_origins: Option<Vec<String>>,
    /// HTTP and HTTPS ports that routes may name besides the default ones, and ports that TCP routes may not have.
    pub ports: Ports,
    /// Key of the hosts' API, where they ask for one.
    pub host_key: Option<String>,
    /// Where logs are read.
    pub log_aggregator: String,
    /// Reported by the status; `dev` without.
    pub version: String,
    /// Longest time until a request is answered that only the database has a part in.
    pub request_limit: Duration,
}

/// Ports of the routers (spec router section 5.2, rules 5 and 8).
#[derive(Clone, Debug, Default)]
pub struct Ports {
    pub http: Vec<u16>,
    pub https: Vec<u16>,
}

/// Variables of the environment that this component reads.
pub mod vars {
    /// Accepted keys, separated by commas; the first is used for own calls.
    pub const AUTH_KEY: &str = "AUTH_KEY";
    /// Names of the keys in logs, in the same order.
    pub const AUTH_KEY_IDS: &str = "AUTH_KEY_IDS";
    /// Base64url of a PKIX public key (ECDSA).
    pub const ACCESS_TOKEN_KEY: &str = "ACCESS_TOKEN_KEY";
    /// Seconds.
    pub const ACCESS_TOKEN_MAX_VALIDITY: &str = "ACCESS_TOKEN_MAX_VALIDITY";
    pub const CA_CERT: &str = "CA_CERT";
    pub const DEFAULT_ROUTE_DOMAIN: &str = "DEFAULT_ROUTE_DOMAIN";
    /// Hex of 10 bytes.
    pub const NAME_SEED: &str = "NAME_SEED";
    pub const AUDIT_LOG: &str = "AUDIT_LOG";
    pub const CORS_ALLOWED_ORIGINS: &str = "CORS_ALLOWED_ORIGINS";
    /// Key of the hosts' API.
    pub const FLYNN_HOST_AUTH_KEY: &str = "FLYNN_HOST_AUTH_KEY";
    /// Ports of the router beside 80 and 443, separated by commas.
    pub const ADDITIONAL_HTTP_PORTS: &str = "ADDITIONAL_HTTP_PORTS";
    pub const ADDITIONAL_HTTPS_PORTS: &str = "ADDITIONAL_HTTPS_PORTS";
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("AUTH_KEY is not set: nobody could use this controller")]
    NoKey,
    #[error("ACCESS_TOKEN_KEY is no public key")]
    TokenKey(#[source] TokenError),
    #[error("ACCESS_TOKEN_MAX_VALIDITY is {0:?}, it must be a number of seconds")]
    MaxValidity(String),
    #[error("NAME_SEED is {0:?}, it must be 20 hexadecimal digits")]
    NameSeed(String),
    #[error("{name} is {text:?}, it must be ports separated by commas")]
    Port { name: &'static str, text: String },
}

impl Config {
    /// Settings of a cluster whose only key this is.
    pub fn new(key: &str) -> Self {
        Self {
            keys: Keys::new(key, ""),
            tokens: None,
            ca_cert: String::new(),
            default_route_domain: String::new(),
            name_seed: vec![0; 10],
            audit: false,
            cors_origins: None,
            ports: Ports::default(),
            host_key: None,
            log_aggregator: "http://logaggregator.discoverd".into(),
            version: "dev".into(),
            request_limit: REQUEST_LIMIT,
        }
    }

    /// Reads the variables; empty ones count as unset.
    pub fn from_vars(vars: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let var = |name: &str| vars(name).unwrap_or_default();
        let keys = Keys::new(&var(vars::AUTH_KEY), &var(vars::AUTH_KEY_IDS));
        if keys.first().is_none() {
            return Err(ConfigError::NoKey);
        }
        let max_validity = match var(vars::ACCESS_TOKEN_MAX_VALIDITY) {
            text if text.is_empty() => TokenKey::MAX_VALIDITY,
            text => Duration::from_secs(text.parse().map_err(|_| ConfigError::MaxValidity(text))?),
        };
        let tokens = match var(vars::ACCESS_TOKEN_KEY) {
            text if text.is_empty() => None,
            text => Some(TokenKey::parse(&text, max_validity).map_err(ConfigError::TokenKey)?),
        };
        let seed = var(vars::NAME_SEED);
        let name_seed = match hex::decode(&seed) {
            Ok(bytes) if bytes.len() == 10 => bytes,
            Ok(bytes) if bytes.is_empty() => vec![0; 10],
            _ => return Err(ConfigError::NameSeed(seed)),
        };
        let ports = |name: &'static str| -> Result<Vec<u16>, ConfigError> {
            let parts = list(&var(name)).into_iter();
            parts.map(|text| text.parse::<u16>().map_err(|_| ConfigError::Port { name, text })).collect()
        };
        let origins = list(&var(vars::CORS_ALLOWED_ORIGINS));
        Ok(Self {
            keys,
            tokens,
            ca_cert: var(vars::CA_CERT),
            default_route_domain: var(vars::DEFAULT_ROUTE_DOMAIN),
            name_seed,
            audit: var(vars::AUDIT_LOG) == "true",
            cors_origins: Some(origins).filter(|origins| !origins.is_empty()),
            ports: Ports { http: ports(vars::ADDITIONAL_HTTP_PORTS)?, https: ports(vars::ADDITIONAL_HTTPS_PORTS)? },
            host_key: Some(var(vars::FLYNN_HOST_AUTH_KEY)).filter(|key| !key.is_empty()),
            ..Self::new("")
        })
    }
}

/// The parts of a list separated by commas.
fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}
