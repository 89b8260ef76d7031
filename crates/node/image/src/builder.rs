//! Carries a recipe out.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use flynn_types::image::{
    Artifact, DEFAULT_ENTRYPOINT, ImageEntrypoint, ImageLayer, ImageManifest, ImagePlatform, ImageRootfs,
    canonical_json,
};
use serde::Serialize;
use sha2::{Digest, Sha512_256};

use crate::bootstrap::{BootstrapError, Debian, Versions};
use crate::cache::{Cache, CacheError};
use crate::command::{CommandError, Tool};
use crate::packages::{PackageError, Packages};
use crate::progress::{Event, Progress};
use crate::recipe::{Bootstrap, EntrypointRecipe, FileRecipe, LayerRecipe, Recipe, RecipeError};
use crate::squashfs::{self, Packer};
use crate::tree::{Node, Tree};

/// Bases of bases of bases: more is a circle.
const MAX_DEPTH: usize = 16;

/// Version of the way in which layers are built: a change makes all of them be built again.
const FORMAT: u32 = 1;

/// Where a [`Builder`] works.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder of `<name>.toml` recipes and the files that they name.
    pub recipes_dir: PathBuf,
    /// Folder of everything built; may be shared by processes.
    pub cache_dir: PathBuf,
    /// Folder of our own programs, as they are put into images; none without it.
    pub programs_dir: Option<PathBuf>,
    /// Ask the archive for newer packages of images built by bootstrap, instead of staying with the versions of the
    /// last build.
    pub refresh: bool,
}

impl Config {
    /// A builder that stays with package versions once they are resolved.
    pub fn new(recipes_dir: impl Into<PathBuf>, cache_dir: impl Into<PathBuf>) -> Self {
        Self { recipes_dir: recipes_dir.into(), cache_dir: cache_dir.into(), programs_dir: None, refresh: false }
    }
}

/// Why an image could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    #[error("image `{name}` is its own base")]
    Circle { name: String },
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("build layer {layer} of image `{image}`")]
    Layer {
        image: String,
        /// Counts from 1.
        layer: usize,
        #[source]
        err: LayerError,
    },
}

/// Why a layer could not be built.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error(transparent)]
    Package(#[from] PackageError),
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error("write the layer's files to {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error("{0}")]
    Tree(String),
}

/// Builds images from recipes.
#[derive(Debug)]
pub struct Builder {
    config: Config,
}

/// Everything that determines a layer's bytes. Its canonical JSON is hashed.
#[derive(Serialize)]
struct Inputs<'a> {
    format: u32,
    recipe: &'a LayerRecipe,
    tool: &'a str,
    packages: &'a Versions,
    /// Path in the image to hash of the content.
    files: BTreeMap<&'a str, String>,
}

impl Builder {
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    /// Where [`Self::build`] leaves the artifact's JSON.
    pub fn artifact_path(&self, name: &str) -> Result<PathBuf, BuildError> {
        Ok(Cache::open(&self.config.cache_dir)?.artifact_path(name))
    }

    /// Builds an image, its bases first, and stores layers, manifest and artifact in the cache. Layers whose inputs
    /// did not change are not built again. Blocks; several processes may build at once.
    pub fn build(&self, name: &str, progress: &dyn Progress) -> Result<Artifact, BuildError> {
        let cache = Cache::open(&self.config.cache_dir)?;
        let chain = self.chain(name)?;
        let mut layers = Vec::new();
        let mut entrypoint = None;
        for (image, recipe) in &chain {
            progress.event(Event::Image { name: image, layers: recipe.layers.len() });
            for (index, layer) in recipe.layers.iter().enumerate() {
                let place = Place { image, layer: index + 1, progress };
                let built = self.layer(&cache, layer, &place);
                layers.push(built.map_err(|err| BuildError::Layer { image: image.clone(), layer: index + 1, err })?);
            }
            entrypoint = recipe.entrypoint.as_ref().or(entrypoint);
        }
        let manifest = manifest(layers, entrypoint);
        let (id, bytes) = (manifest.id(), manifest.canonical_json());
        let uri = format!("{}?name={name}", cache.install_manifest(&id, &bytes)?);
        let artifact = Artifact {
            kind: "flynn".into(),
            uri,
            meta: meta([("flynn.component", name), ("flynn.system-image", "true"), ("manifest.id", &id)]),
            manifest: Some(manifest),
            hashes: meta([("sha512_256", &id)]),
            size: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
            layer_url_template: cache.layer_url_template(),
            ..Artifact::default()
        };
        cache.install_artifact(name, &artifact)?;
        Ok(artifact)
    }

    /// Puts a built image into `dir`: `<layer id>.squashfs` and `.json` per layer, `<manifest id>.manifest.json` and
    /// `<name>.json`, the artifact, whose addresses are `dir`'s. Gives the artifact's path.
    pub fn export(&self, name: &str, artifact: &Artifact, dir: &Path) -> Result<PathBuf, BuildError> {
        Ok(Cache::open(&self.config.cache_dir)?.export(name, artifact, dir)?)
    }

    /// The recipes of an image and its bases, lowest first.
    fn chain(&self, name: &str) -> Result<Vec<(String, Recipe)>, BuildError> {
        let mut chain = Vec::new();
        let mut next = Some(name.to_owned());
        while let Some(image) = next {
            if chain.len() == MAX_DEPTH {
                return Err(BuildError::Circle { name: name.to_owned() });
            }
            let recipe = Recipe::load(&self.config.recipes_dir, &image)?;
            next = recipe.base.clone();
            chain.push((image, recipe));
        }
        chain.reverse();
        Ok(chain)
    }

    fn layer(&self, cache: &Cache, recipe: &LayerRecipe, place: &Place<'_>) -> Result<ImageLayer, LayerError> {
        let tool = squashfs::tool_version()?;
        match &recipe.bootstrap {
            Some(bootstrap) => self.bootstrapped(cache, recipe, bootstrap, &tool, place),
            None => self.assembled(cache, recipe, &tool, place),
        }
    }

    /// A layer put together from files.
    fn assembled(
        &self,
        cache: &Cache,
        recipe: &LayerRecipe,
        tool: &str,
        place: &Place<'_>,
    ) -> Result<ImageLayer, LayerError> {
        place.step("collecting files");
        let mut packages = Packages::new(&cache.work_dir());
        let mut versions = Versions::new();
        let mut contents = BTreeMap::new();
        for file in &recipe.files {
            contents.insert(file.path.as_str(), self.content(file, &mut packages, &mut versions)?);
        }
        let files = contents.iter().map(|(path, content)| (*path, hash(content))).collect();
        let key = Inputs { format: FORMAT, recipe, tool, packages: &versions, files }.hash();
        cached_or_built(cache, &key, place, |out| {
            let tree = tree(recipe, contents, &cache.work_dir())?;
            place.step("packing");
            let packed = Packer::start(out)?.pack(|stdin| tree.write_tar(stdin))?;
            packed.map_err(|err| LayerError::Write { path: out.to_owned(), err })
        })
    }

    /// What is in a file, from wherever it comes.
    fn content(
        &self,
        file: &FileRecipe,
        packages: &mut Packages,
        versions: &mut Versions,
    ) -> Result<Vec<u8>, LayerError> {
        let read = |path: PathBuf| std::fs::read(&path).map_err(|err| LayerError::Read { path, err });
        if let Some(text) = &file.content {
            return Ok(text.strip_prefix('\n').unwrap_or(text).as_bytes().to_vec());
        }
        if let Some(source) = &file.source {
            return read(self.config.recipes_dir.join(source));
        }
        if let Some(program) = &file.program {
            let dir = self.config.programs_dir.as_ref();
            let dir = dir.ok_or_else(|| LayerError::Tree(format!("nobody said where the program {program} is")))?;
            return read(dir.join(program));
        }
        let (Some(package), Some(from)) = (&file.package, &file.from) else {
            return Err(LayerError::Tree(format!("{} has no origin", file.path))); // refused by the parser
        };
        let (version, content) = packages.file(package, from)?;
        versions.insert(package.clone(), version);
        Ok(content)
    }

    /// A layer that is a whole Debian.
    fn bootstrapped(
        &self,
        cache: &Cache,
        recipe: &LayerRecipe,
        bootstrap: &Bootstrap,
        tool: &str,
        place: &Place<'_>,
    ) -> Result<ImageLayer, LayerError> {
        let debian = Debian::new(bootstrap)?;
        let resolve_key = hash(&canonical_json(&(FORMAT, recipe)));
        let remembered = if self.config.refresh { None } else { cache.resolved(&resolve_key) };
        let versions = match remembered {
            Some(versions) => versions,
            None => {
                place.step("asking the archive for package versions");
                let versions = debian.resolve()?;
                cache.remember_resolved(&resolve_key, &versions)?;
                versions
            }
        };
        let install = |versions: &Versions| {
            let inputs = Inputs { format: FORMAT, recipe, tool, packages: versions, files: BTreeMap::new() };
            cached_or_built(cache, &inputs.hash(), place, |out| {
                place.step(&format!("installing {} packages", versions.len()));
                Ok(debian.build(versions, &cache.work_dir(), out)?)
            })
        };
        match install(&versions) {
            // The archive has moved on since the versions were resolved, and no longer has them.
            Err(LayerError::Bootstrap(BootstrapError::Changed)) => {
                place.step("the archive has newer packages, starting again");
                let versions = debian.resolve()?;
                cache.remember_resolved(&resolve_key, &versions)?;
                install(&versions)
            }
            result => result,
        }
    }
}

impl Inputs<'_> {
    fn hash(&self) -> String {
        hash(&canonical_json(self))
    }
}

/// Which layer is being built, and who watches.
struct Place<'a> {
    image: &'a str,
    layer: usize,
    progress: &'a dyn Progress,
}

impl Place<'_> {
    fn step(&self, what: &str) {
        self.progress.event(Event::Step { image: self.image, layer: self.layer, what });
    }
}

/// The layer of these inputs: from the cache, else written by `build` to the path it is given.
fn cached_or_built(
    cache: &Cache,
    key: &str,
    place: &Place<'_>,
    build: impl FnOnce(&Path) -> Result<(), LayerError>,
) -> Result<ImageLayer, LayerError> {
    let Place { image, layer, progress } = *place;
    let _lock = cache.lock(key)?;
    if let Some(found) = cache.layer(key) {
        progress.event(Event::Cached { image, layer, id: &found.id });
        return Ok(found);
    }
    let work_dir = cache.work_dir();
    let dir = tempfile::Builder::new()
        .prefix("layer-")
        .tempdir_in(&work_dir)
        .map_err(|err| LayerError::Write { path: work_dir, err })?;
    let out = dir.path().join("layer.squashfs");
    build(&out)?;
    let built = cache.install_layer(key, &out)?;
    let size_bytes = u64::try_from(built.length).unwrap_or(0);
    progress.event(Event::Built { image, layer, id: &built.id, size_bytes });
    Ok(built)
}

fn tree(recipe: &LayerRecipe, mut contents: BTreeMap<&str, Vec<u8>>, work_dir: &Path) -> Result<Tree, LayerError> {
    let mut tree = Tree::default();
    for dir in &recipe.dirs {
        let mode = dir.mode.map_or(0o755, |m| m.0);
        tree.add(&dir.path, Node::Dir { mode }).map_err(LayerError::Tree)?;
    }
    for (path, target) in &recipe.links {
        tree.add(path, Node::Link { target: target.clone() }).map_err(LayerError::Tree)?;
    }
    if let Some(busybox) = &recipe.applets {
        for applet in applets(contents.get(busybox.as_str()).map_or(&[], Vec::as_slice), work_dir)? {
            if applet != *busybox && !tree.contains(&applet) {
                tree.add(&applet, Node::Link { target: busybox.clone() }).map_err(LayerError::Tree)?;
            }
        }
    }
    for file in &recipe.files {
        let content = contents.remove(file.path.as_str()).unwrap_or_default();
        let mode = file.mode.map_or(0o644, |m| m.0);
        tree.add(&file.path, Node::File { mode, content }).map_err(LayerError::Tree)?;
    }
    Ok(tree)
}

/// Absolute paths of a busybox' applets, as it tells them itself.
fn applets(busybox: &[u8], work_dir: &Path) -> Result<Vec<String>, LayerError> {
    use std::os::unix::fs::PermissionsExt;
    let write = |err| LayerError::Write { path: work_dir.to_owned(), err };
    let dir = tempfile::Builder::new().prefix("busybox-").tempdir_in(work_dir).map_err(write)?;
    let program = dir.path().join("busybox");
    std::fs::write(&program, busybox).map_err(write)?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).map_err(write)?;
    let list = Tool::new(&program.to_string_lossy(), "busybox-static").args(["--list-full"]).text()?;
    Ok(list.lines().filter(|line| !line.is_empty()).map(|line| format!("/{line}")).collect())
}

fn manifest(layers: Vec<ImageLayer>, entrypoint: Option<&EntrypointRecipe>) -> ImageManifest {
    let entrypoint = entrypoint.map(|recipe| ImageEntrypoint {
        env: recipe.env.clone(),
        working_dir: recipe.cwd.clone(),
        args: recipe.args.clone(),
        linux_capabilities: Vec::new(),
        uid: recipe.uid,
        gid: recipe.gid,
    });
    ImageManifest {
        entrypoints: entrypoint.map(|e| (DEFAULT_ENTRYPOINT.to_owned(), e)).into_iter().collect(),
        rootfs: vec![ImageRootfs { platform: Some(ImagePlatform::default()), layers }],
        ..ImageManifest::default()
    }
}

fn meta<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// SHA-512/256 in lower-case hex.
fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha512_256::digest(bytes))
}
