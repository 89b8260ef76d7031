//! Carrying out one health check.

use std::net::SocketAddr;
use std::time::Duration;

use flynn_types::host::HealthCheck;
use tokio::net::TcpStream;

use super::http::{self, Request, Url};

/// Longest time that a check may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How much of a response is searched, in bytes.
const SEARCHED: usize = 5120;

pub(super) fn validate(check: &HealthCheck) -> Result<(), String> {
    match check.kind.as_str() {
        "tcp" | "http" | "https" => Ok(()),
        kind => Err(format!("unknown health check type {kind:?}: it must be tcp, http or https")),
    }
}

/// What is checked, and what is expected of it.
pub(super) enum Target {
    Tcp(Result<SocketAddr, String>),
    Http { url: Result<Url, String>, host: String, status: u16, content: String },
}

impl Target {
    pub(super) fn new(check: &HealthCheck, address: &str) -> Self {
        if check.kind == "tcp" {
            let address = address.parse().map_err(|_| format!("{address} is no address"));
            return Self::Tcp(address);
        }
        let slash = if check.path.is_empty() || check.path.starts_with('/') { "" } else { "/" };
        let status = if check.status == 0 { HealthCheck::DEFAULT_STATUS } else { check.status };
        Self::Http {
            url: Url::parse(&format!("{}://{address}{slash}{}", check.kind, check.path)),
            host: check.host.clone(),
            status,
            content: check.body_match.clone(),
        }
    }

    pub(super) async fn check(&self) -> Result<(), String> {
        tokio::time::timeout(TIMEOUT, self.try_check())
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())))
    }

    async fn try_check(&self) -> Result<(), String> {
        match self {
            Self::Tcp(address) => {
                let address = address.as_ref().map_err(String::clone)?;
                TcpStream::connect(address).await.map(drop).map_err(|err| err.to_string())
            }
            Self::Http { url, host, status, content } => {
                let url = url.as_ref().map_err(String::clone)?;
                let request =
                    Request { host: Some(host.as_str()).filter(|host| !host.is_empty()), ..Request::get(url) };
                let response = http::send(request, SEARCHED).await?;
                if response.status != *status {
                    return Err(format!("healthcheck: expected HTTP status {status}, got {}", response.status));
                }
                if !contains(&response.body, content.as_bytes()) {
                    return Err("healthcheck: response did not match expected bytes".into());
                }
                Ok(())
            }
        }
    }
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || text.windows(wanted.len()).any(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_searched_for() {
        for (text, wanted, found) in [("", "", true), ("abc", "bc", true), ("abc", "bd", false), ("", "a", false)] {
            assert_eq!(contains(text.as_bytes(), wanted.as_bytes()), found, "{wanted} in {text}");
        }
    }
}
