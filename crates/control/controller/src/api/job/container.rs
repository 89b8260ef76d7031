//! What a one-off job is to its host. Pure.

use std::collections::BTreeMap;

use flynn_types::controller::{App, NewJob, Release};
use flynn_types::host::{ContainerConfig, Job, Mountspec, metadata};
use flynn_types::image::{Artifact, DEFAULT_ENTRYPOINT, ImageEntrypoint};

/// The job `id` of an app (J10 to J12), yet without volumes. `attached`: somebody will be at its standard input.
pub(super) fn job(id: &str, app: &App, release: &Release, artifacts: &[Artifact], new: &NewJob, attached: bool) -> Job {
    let entrypoint = entrypoint(artifacts);
    let mut resources = new.resources.clone();
    resources.fill_defaults();
    let mounts = release.processes.get(&new.mounts_from).map(|process| process.mounts.clone()).unwrap_or_default();
    Job {
        id: id.to_owned(),
        mountspecs: mountspecs(artifacts),
        metadata: job_metadata(app, release, new),
        resources,
        partition: new.partition.clone(),
        config: ContainerConfig {
            args: if new.args.is_empty() { entrypoint.args.clone() } else { new.args.clone() },
            tty: new.tty,
            stdin: attached,
            env: environment(id, app, release, &entrypoint, new),
            mounts,
            working_dir: entrypoint.working_dir.clone(),
            uid: entrypoint.uid,
            gid: entrypoint.gid,
            linux_capabilities: Some(entrypoint.linux_capabilities).filter(|list| !list.is_empty()),
            disable_log: new.disable_log,
            ..ContainerConfig::default()
        },
        profiles: new.profiles.clone(),
        ..Job::default()
    }
}

/// The last image's default wins.
fn entrypoint(artifacts: &[Artifact]) -> ImageEntrypoint {
    let manifests = artifacts.iter().rev().filter_map(|artifact| artifact.manifest.as_ref());
    let mut entrypoints = manifests.filter_map(|manifest| manifest.entrypoints.get(DEFAULT_ENTRYPOINT));
    entrypoints.next().cloned().unwrap_or_default()
}

fn mountspecs(artifacts: &[Artifact]) -> Vec<Mountspec> {
    let has_one_root = |artifact: &&Artifact| artifact.manifest.as_ref().is_some_and(|image| image.rootfs.len() == 1);
    let images = artifacts.iter().filter(|artifact| artifact.kind == "flynn").filter(has_one_root);
    images.flat_map(Artifact::mountspecs).collect()
}

fn job_metadata(app: &App, release: &Release, new: &NewJob) -> BTreeMap<String, String> {
    let mut job = new.meta.clone();
    for (key, value) in [(metadata::APP, &app.id), (metadata::APP_NAME, &app.name), (metadata::RELEASE, &release.id)] {
        job.insert(key.to_owned(), value.clone());
    }
    job
}

/// Later ones win (J10).
fn environment(
    id: &str,
    app: &App,
    release: &Release,
    entrypoint: &ImageEntrypoint,
    new: &NewJob,
) -> BTreeMap<String, String> {
    let own = [
        ("FLYNN_APP_ID", app.id.as_str()),
        ("FLYNN_RELEASE_ID", &release.id),
        ("FLYNN_PROCESS_TYPE", ""),
        ("FLYNN_JOB_ID", id),
    ];
    let mut env: BTreeMap<_, _> = own.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    env.extend(entrypoint.env.clone());
    if new.release_env {
        env.extend(release.env.clone());
    }
    env.extend(new.env.clone());
    env
}

#[cfg(test)]
mod tests {
    use flynn_types::controller::ProcessType;
    use flynn_types::host::Mount;
    use flynn_types::image::{ImageLayer, ImageManifest, ImageRootfs};

    use super::*;

    fn artifact(name: &str, args: &[&str]) -> Artifact {
        let env =
            BTreeMap::from([("FROM".to_owned(), name.to_owned()), ("FLYNN_JOB_ID".to_owned(), "image".to_owned())]);
        let entrypoint = ImageEntrypoint {
            env,
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            working_dir: "/app".into(),
            uid: Some(7),
            ..ImageEntrypoint::default()
        };
        let layer = ImageLayer { id: format!("{name}-layer"), ..ImageLayer::default() };
        let manifest = ImageManifest {
            entrypoints: [(DEFAULT_ENTRYPOINT.to_owned(), entrypoint)].into(),
            rootfs: vec![ImageRootfs { platform: None, layers: vec![layer] }],
            ..ImageManifest::default()
        };
        Artifact { kind: "flynn".into(), manifest: Some(manifest), ..Artifact::default() }
    }

    #[test]
    fn j10_to_j12_jobs_are_made_of_image_release_and_request() {
        let app = App { id: "a".into(), name: "shop".into(), ..App::default() };
        let mount = Mount { location: "/m".into(), ..Mount::default() };
        let web = ProcessType { mounts: vec![mount.clone()], ..ProcessType::default() };
        let release = Release {
            id: "r".into(),
            env: [("R".to_owned(), "release".to_owned()), ("N".to_owned(), "release".to_owned())].into(),
            processes: [("web".to_owned(), web)].into(),
            ..Release::default()
        };
        let new = NewJob {
            env: [("N".to_owned(), "request".to_owned())].into(),
            meta: [("k".to_owned(), "v".to_owned())].into(),
            mounts_from: "web".into(),
            ..NewJob::default()
        };
        let images = [artifact("base", &["base"]), artifact("top", &["top"])];
        let attached = job("h-u", &app, &release, &images, &new, true);
        assert_eq!((attached.config.args.as_slice(), attached.config.stdin), (&["top".to_owned()][..], true));
        let layers: Vec<_> = attached.mountspecs.iter().map(|layer| layer.id.as_str()).collect();
        assert_eq!(layers, ["base-layer", "top-layer"]);
        let env = |key: &str| attached.config.env.get(key).map(String::as_str);
        assert_eq!((env("FLYNN_APP_ID"), env("FLYNN_JOB_ID"), env("FROM")), (Some("a"), Some("image"), Some("top")));
        assert_eq!((env("R"), env("N"), env("FLYNN_PROCESS_TYPE")), (None, Some("request"), Some("")));
        assert_eq!((attached.metadata["k"].as_str(), &*attached.metadata[metadata::APP_NAME]), ("v", "shop"));
        let config = &attached.config;
        assert_eq!((&config.mounts, config.working_dir.as_str(), config.uid), (&vec![mount], "/app", Some(7)));
        assert!(attached.resources.limit(flynn_types::resource::ResourceType::Memory).is_some());
        let with_release = NewJob { release_env: true, args: vec!["own".into()], ..new };
        let detached = job("h-u", &app, &release, &images, &with_release, false);
        assert_eq!((detached.config.env["R"].as_str(), detached.config.env["N"].as_str()), ("release", "request"));
        assert_eq!((detached.config.args.as_slice(), detached.config.stdin), (&["own".to_owned()][..], false));
    }
}
