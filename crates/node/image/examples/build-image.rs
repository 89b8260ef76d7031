//! `build-image <recipe name or path> [--output DIR] [--cache DIR] [--programs DIR]`: builds an image and prints the path of its
//! artifact. With `--output`, layers, manifest and artifact are put there too, the artifact pointing to that folder.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use flynn_image::{Builder, Config, Event, Progress};

const USAGE: &str =
    "usage: build-image <recipe name or path> [--output DIR] [--cache DIR] [--programs DIR] [--refresh]";

/// Lines on standard error; on a terminal, steps overwrite each other.
struct Stderr {
    terminal: bool,
    start: Instant,
}

impl Progress for Stderr {
    fn event(&self, event: Event<'_>) {
        let (line, passing) = match event {
            Event::Image { name, layers } => (format!("{name} ({layers} layers)"), false),
            Event::Step { layer, what, .. } => (format!("  layer {layer}: {what}"), true),
            Event::Cached { layer, id, .. } => (format!("  layer {layer}: {:.12} is in the cache", id), false),
            Event::Built { layer, id, size_bytes, .. } => {
                (format!("  layer {layer}: {:.12}, {} KiB", id, size_bytes.div_ceil(1024)), false)
            }
        };
        let seconds = self.start.elapsed().as_secs_f32();
        let mut out = std::io::stderr().lock();
        let _ = match (self.terminal, passing) {
            (true, true) => write!(out, "\r\x1b[K{line} [{seconds:.1} s]"),
            (true, false) => writeln!(out, "\r\x1b[K{line} [{seconds:.1} s]"),
            (false, _) => writeln!(out, "{line} [{seconds:.1} s]"),
        };
    }
}

struct Args {
    recipe: String,
    output: Option<PathBuf>,
    cache: PathBuf,
    programs: Option<PathBuf>,
    refresh: bool,
}

fn parse(args: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut args = args;
    let (mut recipe, mut output, mut cache, mut programs, mut refresh) = (None, None, None, None, false);
    while let Some(arg) = args.next() {
        let mut value = || args.next().map(PathBuf::from).ok_or_else(|| format!("{arg} needs a folder"));
        match arg.as_str() {
            "--output" => output = Some(value()?),
            "--cache" => cache = Some(value()?),
            "--programs" => programs = Some(value()?),
            "--refresh" => refresh = true,
            "--help" | "-h" => return Err(String::new()),
            flag if flag.starts_with('-') => return Err(format!("unknown option {flag}")),
            _ if recipe.is_none() => recipe = Some(arg),
            _ => return Err(format!("unexpected {arg:?}")),
        }
    }
    let cache = cache.or_else(default_cache).ok_or("neither XDG_CACHE_HOME nor HOME is set: give --cache")?;
    Ok(Args { recipe: recipe.ok_or("which recipe?")?, output, cache, programs, refresh })
}

fn default_cache() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let caches = var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache")))?;
    Some(caches.join("flynn"))
}

/// Folder of the recipes, and name: of a path the folder and stem, of a plain name the project's own recipes.
fn recipe(given: &str) -> Option<(PathBuf, String)> {
    if !given.contains('/') && !given.ends_with(".toml") {
        return Some((PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../images")), given.to_owned()));
    }
    let path = Path::new(given);
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Some((dir.to_owned(), path.file_stem()?.to_str()?.to_owned()))
}

fn main() -> ExitCode {
    let args = match parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(problem) => {
            let _ = writeln!(std::io::stderr(), "{problem}\n{USAGE}");
            return ExitCode::from(64);
        }
    };
    let Some((recipes, name)) = recipe(&args.recipe) else {
        let _ = writeln!(std::io::stderr(), "{:?} names no recipe\n{USAGE}", args.recipe);
        return ExitCode::from(64);
    };
    let mut config = Config::new(recipes, args.cache);
    (config.programs_dir, config.refresh) = (args.programs, args.refresh);
    let builder = Builder::new(config);
    let progress = Stderr { terminal: std::io::stderr().is_terminal(), start: Instant::now() };
    let built = builder.build(&name, &progress).and_then(|artifact| match &args.output {
        Some(dir) => builder.export(&name, &artifact, dir),
        None => builder.artifact_path(&name),
    });
    match built {
        Ok(path) => {
            let _ = writeln!(std::io::stdout(), "{}", path.display());
            ExitCode::SUCCESS
        }
        Err(err) => {
            let mut text = format!("error: {err}");
            let mut source = std::error::Error::source(&err);
            while let Some(err) = source {
                text = format!("{text}: {err}");
                source = err.source();
            }
            let _ = writeln!(std::io::stderr(), "{text}");
            ExitCode::FAILURE
        }
    }
}
