//! A change of a formation is a request that the scheduler fulfils (F2 to F8).

use flynn_types::controller::{App, EventType, Processes, Release, Scale, ScaleRequest, ScaleRequestState, Tags};

use crate::database::{Change, NewEvent, Op};
use crate::error::{Error, Result, invalid};
use crate::store;

/// What shall change; `None` stays as it is.
pub(super) struct Wanted {
    pub(super) processes: Option<Processes>,
    pub(super) tags: Option<Tags>,
}

/// Types must be those of the release, and counts not below zero.
pub(super) fn check(wanted: &Wanted, release: &Release, field: &str) -> Result<()> {
    let processes = wanted.processes.iter().flatten();
    let unknown =
        processes.clone().map(|(kind, _)| kind.as_str()).filter(|kind| !release.processes.contains_key(*kind));
    let unknown: Vec<_> = unknown.collect();
    if !unknown.is_empty() {
        let unknown = unknown.join(", ");
        let text = format!("requested scale includes process types that do not exist in the release: {unknown}");
        return Err(invalid("", text));
    }
    let mut counts = processes;
    match counts.find(|(_, count)| **count < 0 || i32::try_from(**count).is_err()) {
        Some((kind, count)) => Err(invalid(field, format!("must hold numbers of jobs, not {count} for {kind}"))),
        None => Ok(()),
    }
}

/// Cancels older requests, records the new one, and changes the formation, merging it with what is there (F3).
pub(super) async fn apply(change: &mut Change, app: &App, release: &Release, wanted: Wanted) -> Result<ScaleRequest> {
    let (app_id, release_id) = (store::id(&app.id)?, store::id(&release.id)?);
    let old = store::formation::find(change.sql(), app_id, release_id).await?.map(|stored| stored.formation);
    let old = old.unwrap_or_default();
    let cancelled = store::formation::cancel_pending(change.sql(), app_id, release_id).await?;
    let request = ScaleRequest {
        id: String::new(),
        app_id: app.id.clone(),
        release_id: release.id.clone(),
        state: ScaleRequestState::Pending,
        old_processes: old.processes.clone(),
        new_processes: wanted.processes.clone(),
        old_tags: old.tags.clone(),
        new_tags: wanted.tags.clone(),
        created_at: None,
        updated_at: None,
    };
    let request = store::formation::insert_request(change.sql(), app_id, release_id, &request).await?;
    let (mut processes, mut tags) = (old.processes.clone(), old.tags);
    processes.extend(wanted.processes.unwrap_or_default());
    tags.extend(wanted.tags.unwrap_or_default());
    store::formation::upsert(change.sql(), app_id, release_id, &processes, &tags).await?;
    change.emit(event(EventType::ScaleRequest, &request).op(Op::Create));
    for request in cancelled {
        // Existing clients wait for the one, newer ones for the other (F5).
        change.emit(event(EventType::ScaleRequestCancelation, &request).op(Op::Update));
        change.emit(event(EventType::ScaleRequest, &request).op(Op::Update));
    }
    let legacy = Scale { prev_processes: old.processes, processes, release_id: release.id.clone() };
    let object_id = format!("{}:{}", app.id, release.id);
    change.emit(NewEvent::new(EventType::Scale, object_id, &legacy).app(app_id));
    Ok(request)
}

fn event(kind: EventType, request: &ScaleRequest) -> NewEvent {
    NewEvent::new(kind, &request.id, request).app_text(&request.app_id)
}

/// Sets the state of a request (F6). One that has ended stays as it is.
pub(super) async fn end(
    change: &mut Change,
    app: &App,
    release: &Release,
    sent: &ScaleRequest,
) -> Result<ScaleRequest> {
    let id = store::id(&sent.id)?;
    let known = store::formation::find_request(change.sql(), id, store::id(&app.id)?, store::id(&release.id)?).await?;
    let known = known.ok_or(Error::NotFound)?;
    let Some(ended) = store::formation::end_request(change.sql(), id, sent.state).await? else { return Ok(known) };
    change.emit(event(EventType::ScaleRequest, &ended).op(Op::Update));
    Ok(ended)
}

/// Stops everything that runs of a release and deletes its formation. `false` when there is none.
pub(crate) async fn scale_to_zero(change: &mut Change, app: &App, release: &Release) -> Result<bool> {
    let (app_id, release_id) = (store::id(&app.id)?, store::id(&release.id)?);
    let found = store::formation::find(change.sql(), app_id, release_id).await?;
    let Some(found) = found.filter(|stored| !stored.deleted) else { return Ok(false) };
    let processes = found.formation.processes.into_keys().map(|kind| (kind, 0)).collect();
    apply(change, app, release, Wanted { processes: Some(processes), tags: None }).await?;
    store::formation::delete(change.sql(), app_id, release_id).await?;
    Ok(true)
}
