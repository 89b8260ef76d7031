//! Events: everything that the controller changed, in the order in which it did.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{DomainMigration, Processes, Release};
use crate::host::{is_default, null_as_default};
use crate::time::GoTime;

macro_rules! event_types {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What an event is about. All names are rows of the table `event_types`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum EventType { $($(#[$doc])* #[serde(rename = $text)] $name,)* }

        impl EventType {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

event_types! {
    App = "app",
    AppDeletion = "app_deletion",
    AppRelease = "app_release",
    AppGarbageCollection = "app_garbage_collection",
    Artifact = "artifact",
    ClusterBackup = "cluster_backup",
    Deployment = "deployment",
    DomainMigration = "domain_migration",
    Job = "job",
    /// Never emitted.
    Key = "key",
    /// Never emitted.
    KeyDeletion = "key_deletion",
    ManagedCertificate = "managed_certificate",
    Provider = "provider",
    Release = "release",
    ReleaseDeletion = "release_deletion",
    Resource = "resource",
    ResourceAppDeletion = "resource_app_deletion",
    ResourceDeletion = "resource_deletion",
    Route = "route",
    RouteDeletion = "route_deletion",
    /// Older form of `scale_request`.
    Scale = "scale",
    ScaleRequest = "scale_request",
    /// Spelt so by existing clients.
    ScaleRequestCancelation = "scale_request_cancelation",
    Sink = "sink",
    SinkDeletion = "sink_deletion",
    Volume = "volume",
}

/// An event. `data` is the object after the change, passed on as it was stored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// Grows; clients resume after the last one they saw.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub id: i64,
    #[serde(rename = "app", skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub app_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_type: Option<EventType>,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub object_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<GoTime>,
}

/// Data of `app_release`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AppRelease {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_release: Option<Release>,
    pub release: Option<Release>,
}

/// Data of the older event `scale`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scale {
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub prev_processes: Processes,
    #[serde(deserialize_with = "null_as_default")]
    pub processes: Processes,
    #[serde(rename = "release", deserialize_with = "null_as_default")]
    pub release_id: String,
}

/// What went with an app.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AppDeletion {
    #[serde(rename = "app", deserialize_with = "null_as_default")]
    pub app_id: String,
    pub deleted_routes: Option<Vec<crate::router::Route>>,
    pub deleted_resources: Option<Vec<super::Resource>>,
    pub deleted_releases: Option<Vec<Release>>,
}

/// Data of `app_deletion`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AppDeletionEvent {
    pub app_deletion: Option<AppDeletion>,
    /// Empty when it went well.
    pub error: String,
}

/// What went with a release.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReleaseDeletion {
    #[serde(rename = "app", deserialize_with = "null_as_default")]
    pub app_id: String,
    #[serde(rename = "release", deserialize_with = "null_as_default")]
    pub release_id: String,
    /// Apps that still use it, so that it stays.
    pub remaining_apps: Option<Vec<String>>,
    pub deleted_files: Option<Vec<String>>,
}

/// Data of `release_deletion`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReleaseDeletionEvent {
    pub release_deletion: Option<ReleaseDeletion>,
    /// Empty when it went well.
    pub error: String,
}

/// What the garbage collection of an app deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AppGarbageCollection {
    #[serde(deserialize_with = "null_as_default")]
    pub app_id: String,
    pub deleted_releases: Option<Vec<String>>,
}

/// Data of `app_garbage_collection`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AppGarbageCollectionEvent {
    pub app_garbage_collection: Option<AppGarbageCollection>,
    /// Empty when it went well.
    pub error: String,
}

/// Data of `domain_migration`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DomainMigrationEvent {
    pub domain_migration: Option<DomainMigration>,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub error: String,
}
