//! Artifacts and image manifests (spec build-and-deploy section 8).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha512_256};

use crate::host::{Mountspec, is_default, null_as_default};
use crate::time::GoTime;

/// `_type` of an image manifest.
pub const MANIFEST_TYPE: &str = "application/vnd.flynn.image.manifest.v1+json";
/// `type` of a layer.
pub const LAYER_TYPE: &str = "application/vnd.flynn.image.squashfs.v1";
/// Name of the entry point that applies when no other does.
pub const DEFAULT_ENTRYPOINT: &str = "_default";

/// What a release runs: an image by the address, hash and length of its manifest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Artifact {
    #[serde(skip_serializing_if = "is_default")]
    pub id: String,
    /// `flynn`; legacy `file` and `docker` can still be read.
    #[serde(rename = "type", skip_serializing_if = "is_default")]
    pub kind: String,
    #[serde(skip_serializing_if = "is_default")]
    pub uri: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub meta: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<ImageManifest>,
    /// `{"sha512_256": manifest id}`
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub hashes: BTreeMap<String, String>,
    /// Length of the manifest in bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub size: i64,
    /// Address of a layer, with `{id}` in place of its id.
    #[serde(skip_serializing_if = "is_default")]
    pub layer_url_template: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<GoTime>,
}

impl Artifact {
    /// The layers as a host wants them, bottom first.
    pub fn mountspecs(&self) -> Vec<Mountspec> {
        let layers = self.manifest.iter().flat_map(|m| m.rootfs.first()).flat_map(|rootfs| &rootfs.layers);
        layers
            .map(|layer| Mountspec {
                kind: Mountspec::SQUASHFS.into(),
                id: layer.id.clone(),
                url: self.layer_url_template.replace("{id}", &layer.id),
                size: layer.length,
                hashes: layer.hashes.clone(),
                meta: self.meta.clone(),
            })
            .collect()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageManifest {
    #[serde(rename = "_type")]
    pub kind: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub meta: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub entrypoints: BTreeMap<String, ImageEntrypoint>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub rootfs: Vec<ImageRootfs>,
}

impl Default for ImageManifest {
    fn default() -> Self {
        Self { kind: MANIFEST_TYPE.into(), meta: BTreeMap::new(), entrypoints: BTreeMap::new(), rootfs: Vec::new() }
    }
}

impl ImageManifest {
    /// SHA-512/256 of the canonical JSON, in lower-case hex.
    pub fn id(&self) -> String {
        hex::encode(Sha512_256::digest(self.canonical_json()))
    }

    /// The bytes that the id is the hash of.
    pub fn canonical_json(&self) -> Vec<u8> {
        canonical_json(self)
    }

    /// The entry point called `name`, else the default one.
    pub fn entrypoint(&self, name: &str) -> Option<&ImageEntrypoint> {
        self.entrypoints.get(name).or_else(|| self.entrypoints.get(DEFAULT_ENTRYPOINT))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageEntrypoint {
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub env: BTreeMap<String, String>,
    #[serde(rename = "cwd", skip_serializing_if = "is_default")]
    pub working_dir: String,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub args: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub linux_capabilities: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageRootfs {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<ImagePlatform>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub layers: Vec<ImageLayer>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImagePlatform {
    pub architecture: String,
    pub os: String,
}

impl Default for ImagePlatform {
    fn default() -> Self {
        Self { architecture: "amd64".into(), os: "linux".into() }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageLayer {
    /// Names the layer; not necessarily the file's hash.
    #[serde(skip_serializing_if = "is_default")]
    pub id: String,
    #[serde(rename = "type", skip_serializing_if = "is_default")]
    pub kind: String,
    /// Bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub length: i64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub hashes: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub meta: BTreeMap<String, String>,
}

/// Canonical JSON: no white space, keys sorted by their bytes, strings escape only `"` and `\`, everything else raw
/// (control characters too, as the Go implementation's library does it).
///
/// # Panics
/// Never for types whose keys are strings, which all of this crate are.
pub fn canonical_json<T: Serialize>(value: &T) -> Vec<u8> {
    let value = serde_json::to_value(value).expect("wire types have string keys only");
    let mut out = Vec::new();
    write_canonical(&value, &mut out);
    out
}

fn write_canonical(value: &serde_json::Value, out: &mut Vec<u8>) {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.keys().collect();
            keys.sort_unstable();
            out.push(b'{');
            for (position, key) in keys.into_iter().enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                write_string(key, out);
                out.push(b':');
                write_canonical(&map[key], out);
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                write_canonical(item, out);
            }
            out.push(b']');
        }
        Value::String(text) => write_string(text, out),
        scalar => out.extend_from_slice(scalar.to_string().as_bytes()),
    }
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_json_sorts_keys_and_escapes_only_quotes_and_backslashes() {
        let value = serde_json::json!({"b": [1, true, null], "_type": "t", "a": "<x>&\"\\\t"});
        assert_eq!(canonical_json(&value), b"{\"_type\":\"t\",\"a\":\"<x>&\\\"\\\\\t\",\"b\":[1,true,null]}");
    }

    #[test]
    fn a_manifest_leaves_out_what_is_empty() {
        let mut manifest = ImageManifest::default();
        assert_eq!(manifest.canonical_json(), br#"{"_type":"application/vnd.flynn.image.manifest.v1+json"}"#);
        let entrypoint = ImageEntrypoint { uid: Some(0), ..ImageEntrypoint::default() };
        manifest.entrypoints.insert(DEFAULT_ENTRYPOINT.into(), entrypoint);
        manifest.rootfs.push(ImageRootfs {
            platform: Some(ImagePlatform::default()),
            layers: vec![ImageLayer { id: "l".into(), kind: LAYER_TYPE.into(), length: 5, ..ImageLayer::default() }],
        });
        assert_eq!(
            String::from_utf8(manifest.canonical_json()).unwrap(),
            r#"{"_type":"application/vnd.flynn.image.manifest.v1+json","entrypoints":{"_default":{"uid":0}},"rootfs":[{"layers":[{"id":"l","length":5,"type":"application/vnd.flynn.image.squashfs.v1"}],"platform":{"architecture":"amd64","os":"linux"}}]}"#
        );
        assert_eq!(manifest.id().len(), 64);
    }

    #[test]
    fn layers_get_their_address_from_the_template() {
        let artifact = Artifact {
            layer_url_template: "file:///cache/{id}.squashfs".into(),
            manifest: Some(ImageManifest {
                rootfs: vec![ImageRootfs {
                    platform: None,
                    layers: vec![ImageLayer { id: "abc".into(), ..ImageLayer::default() }],
                }],
                ..ImageManifest::default()
            }),
            ..Artifact::default()
        };
        assert_eq!(artifact.mountspecs()[0].url, "file:///cache/abc.squashfs");
    }
}
