//! How a component says whether it is well: `GET /.well-known/status` (spec operations section 13.3).

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    Healthy,
    Unhealthy,
}

/// A component's condition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub status: Health,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whatever the component tells besides; of a whole cluster, its components by name (section 13.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<serde_json::Value>,
}

impl Status {
    pub fn new(status: Health, version: &str) -> Self {
        Self { status, version: Some(version.to_owned()), detail: None }
    }

    pub fn healthy(version: &str) -> Self {
        Self::new(Health::Healthy, version)
    }

    /// Of a component that does not tell: nothing else is known.
    pub fn unreachable() -> Self {
        Self { status: Health::Unhealthy, version: None, detail: None }
    }

    pub fn is_healthy(&self) -> bool {
        self.status == Health::Healthy
    }
}

/// The body of the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusBody<S = Status> {
    pub data: S,
}
