//! Providers, and the resources (databases, mostly) that they provision.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::host::{is_default, null_as_default};
use crate::time::GoTime;

/// An HTTP service that makes resources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provider {
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub id: String,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub url: String,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<GoTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<GoTime>,
}

/// What a provider made, and the apps that use it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resource {
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub id: String,
    #[serde(rename = "provider", skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub provider_id: String,
    /// The provider's name for it.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub external_id: String,
    /// Goes into the environment of its apps.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub env: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub apps: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<GoTime>,
}

/// A resource to make.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceReq {
    /// Ids or names.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub apps: Vec<String>,
    /// For the provider; `null` is sent on as `{}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<serde_json::Value>,
}
