//! Deletes the files that only a deleted release used (spec section 14.2).

use flynn_types::controller::{EventType, ReleaseDeletion, ReleaseDeletionEvent};
use serde::Deserialize;

use super::{Failure, concluded, delete_file};
use crate::Context;
use crate::events::NewEvent;
use crate::queue::{Ended, Job, Lease};

/// As existing rows have them.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Arguments {
    #[serde(rename = "AppID")]
    app: String,
    #[serde(rename = "ReleaseID")]
    release: String,
    #[serde(rename = "FileURIs", default)]
    files: Option<Vec<String>>,
}

pub(crate) async fn run(context: &Context, job: &Job, lease: &Lease) -> Ended {
    let arguments = match serde_json::from_str::<Arguments>(&job.args) {
        Ok(arguments) => arguments,
        Err(err) => return Ended::Failed(Failure::from(err).to_string()),
    };
    let event = |files: Vec<String>, error: String| {
        let deletion = ReleaseDeletion {
            app_id: arguments.app.clone(),
            release_id: arguments.release.clone(),
            remaining_apps: None,
            deleted_files: Some(files),
        };
        let data = ReleaseDeletionEvent { release_deletion: Some(deletion), error };
        NewEvent::new(EventType::ReleaseDeletion, &arguments.release, &data).app_text(&arguments.app)
    };
    let deleted = async {
        let files = arguments.files.clone().unwrap_or_default();
        for uri in &files {
            lease.ensure().await?;
            delete_file(context, uri).await?;
        }
        Ok::<_, Failure>(concluded(context, lease, event(files, String::new())).await?)
    };
    match deleted.await {
        Ok(()) => Ended::Recorded,
        Err(failure) => failure.ended(context, |error| event(Vec::new(), error)).await,
    }
}
