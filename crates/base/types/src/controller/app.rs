//! Apps.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::host::{is_default, null_as_default};
use crate::time::GoTime;

/// Keys of [`App::meta`] with a meaning to the platform.
pub mod app_meta {
    /// `true`: no default route, jobs run in the partition `system`.
    pub const SYSTEM: &str = "flynn-system-app";
    /// `true`: the scheduler never stops the last job.
    pub const CRITICAL: &str = "flynn-system-critical";
    /// How many releases made by `git push` stay beside those in use; `false` for all.
    pub const MAX_INACTIVE_RELEASES: &str = "gc.max_inactive_slug_releases";
    /// Jobs replaced at once by the strategy `in-batches`.
    pub const DEPLOY_BATCH_SIZE: &str = "flynn-deploy-batch-size";
}

/// Seconds that a step of a deployment may take, when an app says nothing else.
pub const DEFAULT_DEPLOY_TIMEOUT: i32 = 120;

/// How a new release replaces an old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    AllAtOnce,
    OneByOne,
    OneDownOneUp,
    InBatches,
    /// A database cluster: replicas first, its primary last.
    Sirenia,
    /// One by one, waiting for what each new job writes into its service's metadata.
    DiscoverdMeta,
}

impl Strategy {
    pub const ALL: [Self; 6] =
        [Self::AllAtOnce, Self::OneByOne, Self::OneDownOneUp, Self::InBatches, Self::Sirenia, Self::DiscoverdMeta];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AllAtOnce => "all-at-once",
            Self::OneByOne => "one-by-one",
            Self::OneDownOneUp => "one-down-one-up",
            Self::InBatches => "in-batches",
            Self::Sirenia => "sirenia",
            Self::DiscoverdMeta => "discoverd-meta",
        }
    }
}

/// An app. `meta` is always present; everything else is left out when empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct App {
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub id: String,
    /// Made up by the controller when absent; never changes.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub name: String,
    #[serde(deserialize_with = "null_as_default")]
    pub meta: BTreeMap<String, String>,
    /// The name of a [`Strategy`]; kept as text so that a wrong one gets an answer of its own.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub strategy: String,
    /// Id of the current release.
    #[serde(rename = "release", skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub release_id: String,
    /// Seconds.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub deploy_timeout: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<GoTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<GoTime>,
}

impl App {
    /// Whether the platform consists of this app among others.
    pub fn is_system(&self) -> bool {
        self.has(app_meta::SYSTEM)
    }

    /// Whether the platform cannot be without a job of this app.
    pub fn is_critical(&self) -> bool {
        self.has(app_meta::CRITICAL)
    }

    fn has(&self, key: &str) -> bool {
        self.meta.get(key).is_some_and(|value| value == "true")
    }
}

/// Why a text is no name of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub enum InvalidAppName {
    Pattern,
    Length,
}

impl InvalidAppName {
    /// The sentences that clients of existing clusters know (spec controller-api section 7).
    fn text(self) -> &'static str {
        match self {
            Self::Pattern => r#"String must match the pattern: "^[a-z\d]+(-[a-z\d]+)*$"."#,
            Self::Length => "String length must be shorter than 100 characters.",
        }
    }
}

/// Checks a name: words of lower case letters and digits with single dashes between, at most 100 characters.
pub fn check_app_name(name: &str) -> Result<(), InvalidAppName> {
    if name.len() > 100 {
        return Err(InvalidAppName::Length);
    }
    let is_word = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if name.split('-').all(is_word) { Ok(()) } else { Err(InvalidAppName::Pattern) }
}
