//! Formations: what should run.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use flynn_types::controller::{App, ExpandedFormation, ProcessType, Processes, Release, Tags, VolumeReq};
use flynn_types::image::Artifact;
use flynn_types::resource::{ResourceType, Resources};
use flynn_types::time::GoTime;

use super::job::JobIndex;
use crate::arena::Index;
use crate::time::Time;

/// The place of a formation in the world.
pub type FormationIndex = Index<Formation>;

/// Most jobs of one type that are counted: more would only be pending.
const MAX_COUNT: i64 = 100_000;

/// Names a formation: ids of an app and of a release.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FormationKey {
    pub app: Arc<str>,
    pub release: Arc<str>,
}

impl FormationKey {
    pub fn new(app: &str, release: &str) -> Self {
        Self { app: app.into(), release: release.into() }
    }
}

/// What a job asks of its host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Bytes.
    pub memory: i64,
    /// Thousandths of a core.
    pub cpu: i64,
}

impl Needs {
    /// Requests; where there is none, limits, and then the defaults.
    pub fn of(resources: &Resources) -> Self {
        let of = |kind: ResourceType| {
            let given = resources.0.get(&kind).and_then(|resource| resource.request.or(resource.limit));
            given.or(kind.default_limit()).unwrap_or(0).max(0)
        };
        Self { memory: of(ResourceType::Memory), cpu: of(ResourceType::Cpu) }
    }
}

/// A release of an app, its counts, and its jobs.
#[derive(Clone)]
pub struct Formation {
    pub key: FormationKey,
    /// `None` until the controller told: jobs of it were seen on a host.
    pub known: Option<Known>,
    /// Ordered by name.
    pub(crate) types: Vec<TypeState>,
    /// When the last news of it arrived.
    pub(crate) heard: Time,
    pub(crate) fetch: Fetch,
    /// The controller said that there is none.
    pub(crate) gone: bool,
    /// Its jobs that are stopping, or that the controller does not know to be down.
    pub(crate) ending: usize,
}

/// What the controller says of a formation.
#[derive(Clone)]
pub struct Known {
    pub app: Arc<App>,
    pub release: Arc<Release>,
    pub artifacts: Arc<Vec<Artifact>>,
    pub updated_at: GoTime,
    /// As asked for.
    pub counts: Processes,
    pub tags: Tags,
    /// Id of the request whose end is to be told.
    pub(crate) scale: Option<PendingScale>,
}

#[derive(Clone, Debug)]
pub(crate) struct PendingScale {
    pub(crate) id: String,
    pub(crate) told: Telling,
}

/// How far the telling of something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Telling {
    Due,
    InFlight,
    /// Failed; tried again then.
    Again(Time),
}

/// Whether the controller is asked for the formation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fetch {
    No,
    Due,
    InFlight,
}

/// One process type of a formation.
#[derive(Clone)]
pub(crate) struct TypeState {
    pub(crate) name: Arc<str>,
    /// What was asked for, of each host if `omni`.
    pub(crate) count: usize,
    /// What it was before it became 0, for critical apps.
    pub(crate) kept: usize,
    pub(crate) omni: bool,
    pub(crate) service: Option<Arc<str>>,
    pub(crate) tags: Vec<(String, String)>,
    pub(crate) needs: Needs,
    pub(crate) volumes: Vec<VolumeReq>,
    /// All that are neither stopping nor stopped, oldest first.
    pub(crate) jobs: Vec<JobIndex>,
    /// Of jobs whose successors were not created yet.
    pub(crate) exits: VecDeque<Exit>,
}

/// What a successor needs to know of a job that ended by itself.
#[derive(Clone, Debug)]
pub(crate) struct Exit {
    /// How often the job's predecessors ended, the time it ran short.
    pub(crate) restarts: u32,
    pub(crate) at: Time,
    /// How, in words.
    pub(crate) how: String,
}

impl TypeState {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            count: 0,
            kept: 0,
            omni: false,
            service: None,
            tags: Vec::new(),
            needs: Needs::of(&Resources::default()),
            volumes: Vec::new(),
            jobs: Vec::new(),
            exits: VecDeque::new(),
        }
    }

    /// Takes over what a release and a formation say.
    fn change(&mut self, process: Option<&ProcessType>, count: i64, tags: Option<&BTreeMap<String, String>>) {
        let count = usize::try_from(count.clamp(0, MAX_COUNT)).unwrap_or(0);
        if count > 0 {
            self.kept = 0;
        } else if self.count > 0 {
            self.kept = self.count;
        }
        self.count = count;
        self.tags = tags.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
        let Some(process) = process else { return };
        self.omni = process.omni;
        self.service = (!process.service.is_empty()).then(|| process.service.as_str().into());
        self.needs = Needs::of(&process.resources);
        self.volumes.clone_from(&process.volumes);
        if process.deprecated_data && self.volumes.is_empty() {
            self.volumes.push(VolumeReq { path: "/data".into(), delete_on_stop: false });
        }
    }

    /// Whether a job of it holds data that other hosts do not have.
    pub(crate) fn keeps_data(&self) -> bool {
        self.volumes.iter().any(|volume| !volume.delete_on_stop)
    }
}

impl Formation {
    pub(crate) fn new(key: FormationKey) -> Self {
        Self { key, known: None, types: Vec::new(), heard: Time::default(), fetch: Fetch::No, gone: false, ending: 0 }
    }

    pub(crate) fn kind(&self, name: &str) -> Option<&TypeState> {
        let place = self.types.binary_search_by(|kind| (*kind.name).cmp(name)).ok()?;
        self.types.get(place)
    }

    /// The type of that name, made when there is none.
    pub(crate) fn kind_mut(&mut self, name: &str) -> &mut TypeState {
        let place = match self.types.binary_search_by(|kind| (*kind.name).cmp(name)) {
            Ok(place) => place,
            Err(place) => {
                self.types.insert(place, TypeState::new(name));
                place
            }
        };
        &mut self.types[place]
    }

    pub(crate) fn is_critical(&self) -> bool {
        let databases = |known: &Known| known.release.env.get("SIRENIA_PROCESS").is_some_and(|name| !name.is_empty());
        self.known.as_ref().is_some_and(|known| known.app.is_critical() && !databases(known))
    }

    /// Whether jobs of the type are members of a database cluster, which moves them itself.
    pub(crate) fn is_database(&self, kind: &str) -> bool {
        let of = |known: &Known| known.release.env.get("SIRENIA_PROCESS").is_some_and(|name| name == kind);
        self.known.as_ref().is_some_and(of)
    }

    /// Takes over what the controller says. Older news than known ones change nothing.
    pub(crate) fn change(&mut self, news: &ExpandedFormation) -> bool {
        let (Some(app), Some(release)) = (&news.app, &news.release) else { return false };
        if self.known.as_ref().is_some_and(|known| news.updated_at < known.updated_at) {
            return false;
        }
        let mut names: Vec<&String> = release.processes.keys().chain(news.processes.keys()).collect();
        let own: Vec<String> = self.types.iter().map(|kind| kind.name.to_string()).collect();
        names.extend(&own);
        for name in names {
            let count = if news.deleted { 0 } else { news.processes.get(name).copied().unwrap_or(0) };
            self.kind_mut(name).change(release.processes.get(name), count, news.tags.get(name));
        }
        self.gone = false;
        let told = self.known.as_ref().and_then(|known| known.scale.clone());
        let scale = news.pending_scale_request.as_ref().map(|request| match told {
            Some(told) if told.id == request.id => told,
            _ => PendingScale { id: request.id.clone(), told: Telling::Due },
        });
        self.known = Some(Known {
            app: Arc::new(app.clone()),
            release: Arc::new(release.clone()),
            artifacts: Arc::new(news.artifacts.clone()),
            updated_at: news.updated_at,
            counts: news.processes.clone(),
            tags: news.tags.clone(),
            scale,
        });
        true
    }

    /// Nothing of it is wanted any more.
    pub(crate) fn empty(&mut self) {
        for kind in &mut self.types {
            kind.change(None, 0, None);
        }
    }

    /// Whether the controller said what is wanted of it.
    pub(crate) fn is_settled(&self) -> bool {
        self.known.is_some() || self.gone
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.types.iter().any(|kind| kind.count > 0)
    }
}
