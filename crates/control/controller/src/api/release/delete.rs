//! The end of a release, and of the files that only it used (R9 to R13).

use std::collections::BTreeSet;

use axum::extract::{Path, State};
use flynn_types::controller::{EventType, ReleaseDeletion, ReleaseDeletionEvent};
use flynn_types::image::Artifact;
use serde_json::json;

use crate::api::formation::scale_to_zero;
use crate::database::{Change, NewEvent};
use crate::error::{Error, Result, invalid};
use crate::shared::Shared;
use crate::store;

pub(super) async fn delete(State(shared): State<Shared>, Path((app, release)): Path<(String, String)>) -> Result<()> {
    let mut change = shared.change().await?;
    let app = store::app::lock(change.sql(), &app).await?;
    let release_id = store::id(&release)?;
    let release = store::release::get(change.sql(), release_id).await?;
    if !store::release::belongs_to(change.sql(), release_id, store::id(&app.id)?).await? {
        return Err(Error::NotFound);
    }
    if store::release::is_current(change.sql(), release_id).await? {
        return Err(invalid("", "cannot delete current app release"));
    }
    // Told to the scheduler at once, and not found by it a minute later (P13).
    scale_to_zero(&mut change, &app, &release).await?;
    let others = store::formation::other_apps(change.sql(), release_id, store::id(&app.id)?).await?;
    if !others.is_empty() {
        finished(&mut change, &app.id, &release.id, Some(others));
        return change.commit().await;
    }
    let unused = store::release::delete(change.sql(), release_id).await?;
    let artifacts = store::artifact::even_deleted(change.sql(), &unused).await?;
    let files = files(&mut change, &artifacts).await?;
    if files.is_empty() {
        finished(&mut change, &app.id, &release.id, None);
    } else {
        let args = json!({ "AppID": app.id, "ReleaseID": release.id, "FileURIs": files });
        change.enqueue("release_cleanup", &args).await?;
    }
    change.commit().await
}

/// The event of a deletion that leaves nothing to do. As existing clients know it, without the app's id inside.
fn finished(change: &mut Change, app_id: &str, release_id: &str, remaining_apps: Option<Vec<String>>) {
    let deletion = ReleaseDeletion { release_id: release_id.to_owned(), remaining_apps, ..ReleaseDeletion::default() };
    let data = ReleaseDeletionEvent { release_deletion: Some(deletion), error: String::new() };
    change.emit(NewEvent::new(EventType::ReleaseDeletion, release_id, &data).app_text(app_id));
}

/// Addresses of what the blobstore need not keep.
async fn files(change: &mut Change, artifacts: &[Artifact]) -> Result<BTreeSet<String>> {
    let ours = artifacts.iter().filter(|artifact| artifact.meta.get("blobstore").is_some_and(|value| value == "true"));
    let mut files = BTreeSet::new();
    for artifact in ours {
        files.insert(artifact.uri.clone());
        let rootfs = artifact.manifest.iter().flat_map(|manifest| &manifest.rootfs);
        let layers: Vec<_> = rootfs.flat_map(|rootfs| &rootfs.layers).collect();
        let ids: Vec<_> = layers.iter().map(|layer| layer.id.clone()).collect();
        let unused = store::release::unused_layers(change.sql(), &ids).await?;
        for layer in layers.into_iter().filter(|layer| unused.contains(&layer.id)) {
            if !artifact.layer_url_template.is_empty() {
                files.insert(artifact.layer_url_template.replace("{id}", &layer.id));
            }
            if let Some(id) = layer.meta.get("tar.layer_id") {
                files.insert(format!("http://blobstore.discoverd/tarreceive/layers/{id}.json"));
            }
        }
    }
    Ok(files)
}
