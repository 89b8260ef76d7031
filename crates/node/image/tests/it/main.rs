//! Builds real images with the machine's own tools.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use flynn_image::{BuildError, Builder, Config, Event, Progress, Silent};
use flynn_types::image::Artifact;

fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../images")
}

fn build(recipes: &Path, cache: &Path, name: &str) -> Artifact {
    Builder::new(Config::new(recipes, cache)).build(name, &Silent).unwrap()
}

fn layer_file(artifact: &Artifact, index: usize) -> PathBuf {
    PathBuf::from(artifact.mountspecs()[index].url.strip_prefix("file://").unwrap())
}

/// Unpacks a layer and gives its root.
fn unpack(layer: &Path, dir: &Path) -> PathBuf {
    let root = dir.join("root");
    let output = Command::new("unsquashfs").args(["-no-progress", "-d"]).arg(&root).arg(layer).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    root
}

#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl Progress for Recorder {
    fn event(&self, event: Event<'_>) {
        let line = match event {
            Event::Image { name, layers } => format!("image {name} {layers}"),
            Event::Cached { layer, .. } => format!("cached {layer}"),
            Event::Step { .. } => return,
            Event::Built { layer, .. } => format!("built {layer}"),
        };
        self.0.lock().unwrap().push(line);
    }
}

#[test]
fn busybox_has_its_applets_and_is_a_system_image() {
    let dir = tempfile::tempdir().unwrap();
    let artifact = build(&recipes(), &dir.path().join("cache"), "busybox");
    let manifest = artifact.manifest.as_ref().unwrap();
    assert_eq!(artifact.hashes["sha512_256"], manifest.id());
    assert_eq!(artifact.meta["flynn.system-image"], "true");
    assert_eq!(manifest.entrypoint("_default").unwrap().args, ["/bin/sh"]);
    let spec = &artifact.mountspecs()[0];
    assert_eq!(spec.id, spec.hashes["sha512_256"]);
    assert_eq!(fs::metadata(layer_file(&artifact, 0)).unwrap().len(), u64::try_from(spec.size).unwrap());

    let root = unpack(&layer_file(&artifact, 0), dir.path());
    assert_eq!(fs::read_link(root.join("bin/sh")).unwrap(), Path::new("/bin/busybox"));
    assert_eq!(fs::metadata(root.join("bin/busybox")).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(root.join("tmp")).unwrap().permissions().mode() & 0o7777, 0o1777);
    let passwd = fs::metadata(root.join("etc/passwd")).unwrap();
    assert_eq!((passwd.uid(), passwd.gid(), passwd.mtime()), (0, 0, 0));
    assert!(fs::read_to_string(root.join("etc/passwd")).unwrap().starts_with("root:"));
    let said = Command::new(root.join("bin/busybox")).args(["echo", "works"]).output().unwrap();
    assert_eq!(said.stdout, b"works\n");
}

#[test]
fn two_builds_in_two_caches_give_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("deeper/two"));
    let (one, two) = (build(&recipes(), &one, "busybox"), build(&recipes(), &two, "busybox"));
    assert_eq!(one.manifest, two.manifest);
    assert_eq!(one.hashes, two.hashes);
    assert!(fs::read(layer_file(&one, 0)).unwrap() == fs::read(layer_file(&two, 0)).unwrap());
}

#[test]
fn unchanged_layers_come_from_the_cache_and_only_while_they_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let builder = Builder::new(Config::new(recipes(), dir.path()));
    let events = || {
        let recorder = Recorder::default();
        let artifact = builder.build("busybox", &recorder).unwrap();
        (recorder.0.into_inner().unwrap(), artifact)
    };
    let (first, artifact) = events();
    assert_eq!(first, ["image busybox 1", "built 1"]);
    assert_eq!(events().0, ["image busybox 1", "cached 1"]);
    fs::OpenOptions::new().write(true).open(layer_file(&artifact, 0)).unwrap().set_len(100).unwrap();
    let (again, rebuilt) = events();
    assert_eq!(again, ["image busybox 1", "built 1"]);
    assert_eq!(rebuilt, artifact);
}

#[test]
fn layers_of_the_base_lie_below_and_a_change_above_leaves_them() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    fs::create_dir(&images).unwrap();
    let write = |name: &str, text: &str| fs::write(images.join(name), text).unwrap();
    write("base.toml", "[entrypoint]\nargs = [\"/a\"]\n[[layer]]\n[[layer.files]]\npath = \"/a\"\ncontent = \"a\"\n");
    let top = |content: &str| {
        write("extra", content);
        write(
            "top.toml",
            "base = \"base\"\n[[layer]]\n[[layer.files]]\npath = \"/opt/b\"\nsource = \"extra\"\nmode = \"0600\"\n",
        );
        build(&images, &dir.path().join("cache"), "top")
    };
    let (one, two) = (top("1"), top("2"));
    let ids = |artifact: &Artifact| artifact.mountspecs().into_iter().map(|m| m.id).collect::<Vec<_>>();
    assert_eq!(ids(&one)[0], ids(&two)[0]);
    assert_ne!(ids(&one)[1], ids(&two)[1]);
    assert_eq!(one.manifest.as_ref().unwrap().entrypoint("x").unwrap().args, ["/a"]);
    let root = unpack(&layer_file(&two, 1), dir.path());
    assert_eq!(fs::read_to_string(root.join("opt/b")).unwrap(), "2");
    assert_eq!(fs::metadata(root.join("opt/b")).unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn builds_at_the_same_time_share_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let artifacts: Vec<_> = std::thread::scope(|scope| {
        let builds: Vec<_> = (0..4).map(|_| scope.spawn(|| build(&recipes(), dir.path(), "busybox"))).collect();
        builds.into_iter().map(|b| b.join().unwrap()).collect()
    });
    assert!(artifacts.iter().all(|a| *a == artifacts[0]));
    let layers = fs::read_dir(dir.path().join("layers")).unwrap().count();
    assert_eq!(layers, 2, "one layer and its description");
    let left: Vec<_> = fs::read_dir(dir.path().join("work"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".lock"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn an_exported_image_stands_on_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let builder = Builder::new(Config::new(recipes(), dir.path().join("cache")));
    let artifact = builder.build("busybox", &Silent).unwrap();
    let path = builder.export("busybox", &artifact, &dir.path().join("out")).unwrap();
    fs::remove_dir_all(dir.path().join("cache")).unwrap();
    let exported: Artifact = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(exported.manifest, artifact.manifest);
    assert!(layer_file(&exported, 0).starts_with(dir.path().join("out")));
    assert_eq!(fs::metadata(layer_file(&exported, 0)).unwrap().len() as i64, exported.mountspecs()[0].size);
    let manifest = exported.uri.strip_prefix("file://").unwrap().split('?').next().unwrap();
    assert_eq!(fs::read(manifest).unwrap().len() as i64, exported.size);
}

#[test]
fn what_cannot_be_built_is_named_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    fs::create_dir(&images).unwrap();
    let recipes: BTreeMap<&str, (&str, &str)> = [
        ("ring", ("base = \"ring\"\n", "image `ring` is its own base")),
        ("lost", ("base = \"nowhere\"\n", "there is no recipe for image `nowhere`")),
        (
            "absent",
            (
                "[[layer]]\n[[layer.files]]\npath = \"/a\"\nsource = \"gone\"\n",
                "build layer 1 of image `absent`: read ",
            ),
        ),
        (
            "twice",
            (
                "[[layer]]\nlinks = { \"/a\" = \"/b\" }\n[[layer.files]]\npath = \"/a\"\ncontent = \"\"\n",
                "build layer 1 of image `twice`: /a is there twice",
            ),
        ),
        (
            "missing",
            (
                "[[layer]]\n[[layer.files]]\npath = \"/a\"\npackage = \"dpkg\"\nfrom = \"/no/such\"\n",
                "has no file /no/such",
            ),
        ),
    ]
    .into();
    let cache = dir.path().join("cache");
    for (name, (text, expected)) in recipes {
        fs::write(images.join(format!("{name}.toml")), text).unwrap();
        let err = Builder::new(Config::new(&images, &cache)).build(name, &Silent).unwrap_err();
        let text = chain(&err);
        assert!(text.contains(expected), "{name}: {text}");
        assert!(!cache.join("images").join(format!("{name}.json")).exists(), "{name}");
    }
    assert_eq!(fs::read_dir(cache.join("layers")).unwrap().count(), 0);
}

fn chain(err: &BuildError) -> String {
    let mut text = err.to_string();
    let mut source = std::error::Error::source(err);
    while let Some(err) = source {
        text = format!("{text}: {err}");
        source = err.source();
    }
    text
}
