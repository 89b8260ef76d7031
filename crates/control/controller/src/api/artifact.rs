//! Artifacts (spec controller-api section 6 R).

mod manifest;

use axum::Json;
use axum::extract::{Path, State};
use flynn_types::controller::EventType;
use flynn_types::image::Artifact;
use uuid::Uuid;

use crate::api::endpoints::Endpoints;
use crate::database::NewEvent;
use crate::error::{Result, invalid};
use crate::input::Input;
use crate::shared::Shared;
use crate::store;

pub(super) fn endpoints() -> Endpoints {
    Endpoints::new()
        .get("/artifacts", "All artifacts, newest first", list)
        .post("/artifacts", "Create an artifact; its manifest is fetched and verified", create)
        .taking::<Artifact>()
        .get("/artifacts/{id}", "An artifact", read)
}

async fn list(State(shared): State<Shared>) -> Result<Json<Vec<Artifact>>> {
    Ok(Json(store::artifact::list(&mut *shared.sql().await?).await?))
}

async fn read(State(shared): State<Shared>, Path(id): Path<String>) -> Result<Json<Artifact>> {
    Ok(Json(store::artifact::get(&mut *shared.sql().await?, store::id(&id)?).await?))
}

async fn create(State(shared): State<Shared>, Input(mut artifact): Input<Artifact>) -> Result<Json<Artifact>> {
    if artifact.size < 0 {
        return Err(invalid("size", "must be greater than zero"));
    }
    // Not within the transaction: a download takes its time.
    if artifact.kind == "flynn" && artifact.manifest.is_none() {
        if artifact.size == 0 {
            return Err(invalid("size", "must be greater than zero"));
        }
        let downloaded = manifest::download(&artifact).await;
        artifact.manifest = Some(
            downloaded
                .map_err(|err| invalid("manifest", format!("failed to download from {}: {err}", artifact.uri)))?,
        );
    }
    let id = if artifact.id.is_empty() {
        Uuid::new_v4()
    } else {
        artifact.id.parse().map_err(|_| invalid("id", "must be a UUID"))?
    };
    let mut change = shared.change().await?;
    let created = store::artifact::insert(change.sql(), &artifact, id).await?;
    change.emit(NewEvent::new(EventType::Artifact, &created.id, &created));
    change.commit().await?;
    Ok(Json(created))
}
