//! `GET /debug/state` (spec section 4.1). Environments stay inside.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::world::{Formation, Host, Job, Phase, Role, World};

/// What the world knows.
pub(super) fn state(world: &World, job_id: &str) -> Value {
    let mut state = json!({
        "job_id": job_id,
        "hosts": world.hosts().map(|it| (it.id.to_string(), host(it))).collect::<BTreeMap<_, _>>(),
        "jobs": world.jobs().map(|it| (it.uuid.to_string(), job(world, it))).collect::<BTreeMap<_, _>>(),
        "formations": world.formations().map(|it| (format!("{}:{}", it.key.app, it.key.release), formation(world, it)))
            .collect::<BTreeMap<_, _>>(),
        "volumes": world.volumes().filter_map(|it| Some((it.id.clone(), json!(world.volume_record_of(&it.id)?.0))))
            .collect::<BTreeMap<_, _>>(),
    });
    if world.role() != Role::Unknown {
        state["is_leader"] = world.leading().is_some().into();
    }
    state
}

fn host(host: &Host) -> Value {
    json!({
        "id": host.id, "tags": host.tags, "healthy": host.is_healthy(), "checks": host.failed_checks,
        "shutdown": host.shutting_down, "draining": host.draining,
    })
}

fn job(world: &World, job: &Job) -> Value {
    let name = match job.phase {
        Phase::Pending { .. } | Phase::Placed { .. } => "pending",
        Phase::Starting { .. } => "starting",
        Phase::Running { .. } => "running",
        Phase::Stopping { .. } => "stopping",
        Phase::Stopped => "stopped",
    };
    let mut value = json!({
        "id": job.uuid, "type": job.kind, "app_id": job.app, "release_id": job.release,
        "restarts": job.restarts, "state": name,
    });
    if let Some(host) = job.phase.host().and_then(|host| world.host_at(host)) {
        value["host_id"] = host.id.as_str().into();
        value["job_id"] = format!("{}-{}", host.id, job.uuid).into();
    }
    if let Phase::Running { since, .. } = job.phase {
        value["started_at"] = since.to_wire().to_string().into();
    }
    if let Phase::Pending { not_before } = job.phase {
        value["run_at"] = not_before.to_wire().to_string().into();
    }
    if let Some(reason) = &job.waiting {
        value["reason"] = reason.to_string().into();
    }
    if !job.volumes.is_empty() {
        value["volumes"] = job.volumes.iter().map(|volume| volume.id.clone()).collect::<Vec<_>>().into();
    }
    value
}

fn formation(world: &World, formation: &Formation) -> Value {
    let Some(known) = &formation.known else { return json!({}) };
    let processes = known.release.processes.iter();
    let shown = |process: &flynn_types::controller::ProcessType| json!({ "args": process.args, "volumes": process.volumes, "omni": process.omni });
    let processes: BTreeMap<_, _> = processes.map(|(name, process)| (name, shown(process))).collect();
    let effective: BTreeMap<_, _> =
        known.release.processes.keys().map(|name| (name, world.wanted(formation, name))).collect();
    json!({
        "app": { "id": known.app.id, "name": known.app.name, "meta": known.app.meta },
        "release": { "id": known.release.id, "processes": processes },
        "processes": effective,
        "updated_at": known.updated_at,
        "original_processes": known.counts,
        "tags": known.tags,
    })
}
