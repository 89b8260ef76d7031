//! Webhooks: a host's events, POSTed to someone else's URL.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{JobStatus, is_default, null_as_default};
use crate::time::GoTime;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Webhook {
    pub id: String,
    pub url: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub headers: BTreeMap<String, String>,
    pub created_at: GoTime,
}

/// What is POSTed. Never holds environment, arguments or mounts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WebhookEvent {
    pub event_id: String,
    pub timestamp: GoTime,
    pub host_id: String,
    /// `H10` create, `H11` start, `H12` stop, `H13` crash, `H14` failed, `H15` cleanup, `H20` memory warning, `H21`
    /// out of memory, `D10` daemon start, `D11` daemon shutdown.
    pub code: String,
    pub description: String,
    /// `info`, `warning`, `error` or `critical`.
    pub severity: String,
    #[serde(skip_serializing_if = "is_default")]
    pub job_id: String,
    #[serde(skip_serializing_if = "is_default")]
    pub app_id: String,
    #[serde(skip_serializing_if = "is_default")]
    pub process_type: String,
    #[serde(skip_serializing_if = "is_default")]
    pub release_id: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<WebhookJob>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WebhookJob {
    pub id: String,
    pub host_id: String,
    #[serde(skip_serializing_if = "is_default")]
    pub internal_ip: String,
    pub status: JobStatus,
    pub created_at: GoTime,
    pub started_at: GoTime,
    pub ended_at: GoTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
