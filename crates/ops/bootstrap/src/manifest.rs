//! The list of steps (spec operations section 4.3).

use std::path::Path;

use serde_json::{Map, Value};

use crate::action;
use crate::error::{Doing as _, Result, wrong};

/// Steps in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    pub steps: Vec<Step>,
}

/// A step as it is written, its texts yet to be rendered.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub id: String,
    pub action: String,
    pub(crate) fields: Map<String, Value>,
}

/// Begin and end of what stands for an image's artifact.
const IMAGE: (&str, &str) = ("$image_artifact[", "]");

impl Manifest {
    /// Reads a manifest, taking the artifacts that it names from `<images>/<name>.json`.
    ///
    /// # Errors
    /// It is no list of steps, a step has no id or an unknown action, an image is not there.
    pub fn parse(text: &str, images: &Path) -> Result<Self> {
        let mut steps: Vec<Value> = serde_json::from_str(text).doing(|| "read the bootstrap manifest".into())?;
        let mut taken = std::collections::BTreeSet::new();
        let parsed = steps.iter_mut().map(|step| {
            insert_images(step, images)?;
            let Value::Object(fields) = step else { return Err(wrong("bootstrap: a step must be an object")) };
            let mut text = |name: &str| match fields.remove(name) {
                Some(Value::String(text)) if !text.is_empty() => Ok(text),
                _ => Err(wrong(format!("bootstrap: a step must have an {name:?}"))),
            };
            let (id, action) = (text("id")?, text("action")?);
            if !action::NAMES.contains(&action.as_str()) {
                return Err(wrong(format!("bootstrap: unknown action {action:?}")));
            }
            if !taken.insert(id.clone()) {
                return Err(wrong(format!("bootstrap: two steps have the id {id:?}")));
            }
            Ok(Step { id, action, fields: std::mem::take(fields) })
        });
        Ok(Self { steps: parsed.collect::<Result<_>>()? })
    }

    /// Only the steps with these ids.
    ///
    /// # Errors
    /// There is no step of a name.
    pub fn only(mut self, ids: &[String]) -> Result<Self> {
        if let Some(unknown) = ids.iter().find(|id| !self.steps.iter().any(|step| step.id == **id)) {
            return Err(wrong(format!("the manifest has no step {unknown:?}")));
        }
        self.steps.retain(|step| ids.contains(&step.id));
        Ok(self)
    }
}

fn insert_images(value: &mut Value, images: &Path) -> Result<()> {
    match value {
        Value::String(text) => {
            let Some(name) = text.strip_prefix(IMAGE.0).and_then(|rest| rest.strip_suffix(IMAGE.1)) else {
                return Ok(());
            };
            *value = image(name, images)?;
            Ok(())
        }
        Value::Array(values) => values.iter_mut().try_for_each(|value| insert_images(value, images)),
        Value::Object(fields) => fields.values_mut().try_for_each(|value| insert_images(value, images)),
        _ => Ok(()),
    }
}

fn image(name: &str, images: &Path) -> Result<Value> {
    if !flynn_types::id::is_path_safe(name) {
        return Err(wrong(format!("bootstrap: {name:?} is no name of an image")));
    }
    let path = images.join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path)
        .doing(|| format!("read the artifact of image {name} from {} (--images names the folder)", path.display()))?;
    serde_json::from_str(&text).doing(|| format!("read the artifact of image {name} from {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::words;

    fn parse(text: &str) -> Result<Manifest, String> {
        Manifest::parse(text, Path::new("/nonexistent")).map_err(|err| words(&err))
    }

    #[test]
    fn what_is_no_manifest_is_refused_with_the_reason() {
        assert_eq!(parse(r#"[{"id":"a","action":"X"}]"#).unwrap_err(), r#"bootstrap: unknown action "X""#);
        assert_eq!(parse(r#"[{"action":"log"}]"#).unwrap_err(), r#"bootstrap: a step must have an "id""#);
        let twice = r#"[{"id":"a","action":"log"},{"id":"a","action":"log"}]"#;
        assert_eq!(parse(twice).unwrap_err(), r#"bootstrap: two steps have the id "a""#);
        assert!(parse("{").unwrap_err().starts_with("read the bootstrap manifest: "));
        let image = r#"[{"id":"a","action":"log","artifacts":["$image_artifact[shop]"]}]"#;
        assert!(parse(image).unwrap_err().contains("/nonexistent/shop.json"));
        let outside = r#"[{"id":"a","action":"log","artifacts":["$image_artifact[../etc/x]"]}]"#;
        assert!(parse(outside).unwrap_err().contains("no name of an image"));
    }

    #[test]
    fn the_standard_manifest_is_one() {
        let images = tempfile::tempdir().unwrap();
        for name in ["flynn-system", "postgres"] {
            std::fs::write(images.path().join(format!("{name}.json")), r#"{"type":"flynn"}"#).unwrap();
        }
        let manifest = Manifest::parse(crate::STANDARD_MANIFEST, images.path()).map_err(|err| words(&err)).unwrap();
        for step in manifest.steps {
            action::Action::parse(&step.action, Value::Object(step.fields)).map_err(|err| words(&err)).unwrap();
        }
    }

    #[test]
    fn steps_can_be_chosen() {
        let text = r#"[{"id":"a","action":"log"},{"id":"b","action":"log"}]"#;
        let chosen = parse(text).unwrap().only(&["b".into()]).map_err(|err| words(&err)).unwrap();
        assert_eq!(chosen.steps.iter().map(|step| step.id.as_str()).collect::<Vec<_>>(), ["b"]);
        assert!(parse(text).unwrap().only(&["c".into()]).is_err());
    }
}
