//! The fields of each object that clients send, and its rules beyond their types.

use flynn_types::acme::{AcmeConfig, ManagedCertificate};
use flynn_types::controller::{
    App, DomainMigration, Formation, Job, NewJob, Provider, Release, Resource, ResourceReq, ScaleRequest, Sink,
    Strategy, Volume,
};
use flynn_types::image::Artifact;
use flynn_types::router::Route;

use super::schema::{Field, Kind};
use super::{Checked, Rule};

const NAME: Kind = Kind::NAME;
const LONG: Kind = Kind::LONG;
const TEXTS: Kind = Kind::TEXTS;
const TEXT_MAP: Kind = Kind::TEXT_MAP;
const NAMES: Kind = Kind::List(&NAME);
const FLAG: Kind = Kind::Flag;
const TIME: Kind = Kind::Time;
const I32: Kind = Kind::Number(i32::MIN as i64, i32::MAX as i64);
const I64: Kind = Kind::Number(i64::MIN, i64::MAX);
const COUNT: Kind = Kind::Number(0, i64::MAX);
const U32: Kind = Kind::Number(0, u32::MAX as i64);
const U16: Kind = Kind::Number(0, u16::MAX as i64);
/// What the database stores in 255 characters.
const SHORT: Kind = Kind::Text(255);

const COUNTS: Kind = Kind::Map(&Kind::Number(i64::MIN, i64::MAX));
const TAGS: Kind = Kind::Map(&TEXT_MAP);
const RESOURCES: Kind = Kind::Map(&Kind::Object(&[("request", I64), ("limit", I64)]));

const CHECK: Kind = Kind::Object(&[
    ("type", LONG),
    ("interval", COUNT),
    ("threshold", U32),
    ("kill_down", FLAG),
    ("start_timeout", COUNT),
    ("path", LONG),
    ("host", LONG),
    ("match", LONG),
    ("status", U16),
]);
const SERVICE: Kind = Kind::Object(&[("name", LONG), ("create", FLAG), ("check", CHECK)]);
const PORT: Kind = Kind::Object(&[("port", U16), ("proto", LONG), ("service", SERVICE)]);
const VOLUME_REQ: Kind = Kind::Object(&[("path", LONG), ("delete_on_stop", FLAG)]);
const MOUNT: Kind = Kind::Object(&[
    ("location", LONG),
    ("target", LONG),
    ("writeable", FLAG),
    ("device", LONG),
    ("data", LONG),
    ("flags", I64),
]);
const DEVICE: Kind = Kind::Object(&[
    ("type", U32),
    ("path", LONG),
    ("major", I64),
    ("minor", I64),
    ("permissions", LONG),
    ("file_mode", U32),
    ("uid", U32),
    ("gid", U32),
    ("allow", FLAG),
]);
const PROCESS: Kind = Kind::Object(&[
    ("args", TEXTS),
    ("env", TEXT_MAP),
    ("ports", Kind::List(&PORT)),
    ("volumes", Kind::List(&VOLUME_REQ)),
    ("omni", FLAG),
    ("host_network", FLAG),
    ("host_pid_namespace", FLAG),
    ("service", LONG),
    ("resurrect", FLAG),
    ("resources", RESOURCES),
    ("mounts", Kind::List(&MOUNT)),
    ("profiles", TEXTS),
    ("linux_capabilities", TEXTS),
    ("allowed_devices", Kind::List(&DEVICE)),
    ("writeable_cgroups", FLAG),
    ("cmd", TEXTS),
    ("entrypoint", TEXTS),
    ("data", FLAG),
]);

const ENTRYPOINT: Kind = Kind::Object(&[
    ("env", TEXT_MAP),
    ("cwd", LONG),
    ("args", TEXTS),
    ("linux_capabilities", TEXTS),
    ("uid", U32),
    ("gid", U32),
]);
const LAYER: Kind =
    Kind::Object(&[("id", LONG), ("type", LONG), ("length", I64), ("hashes", TEXT_MAP), ("meta", TEXT_MAP)]);
const PLATFORM: Kind = Kind::Object(&[("architecture", LONG), ("os", LONG)]);
const ROOTFS: Kind = Kind::Object(&[("platform", PLATFORM), ("layers", Kind::List(&LAYER))]);
const MANIFEST: Kind = Kind::Object(&[
    ("_type", LONG),
    ("meta", TEXT_MAP),
    ("entrypoints", Kind::Map(&ENTRYPOINT)),
    ("rootfs", Kind::List(&ROOTFS)),
]);

const TLS_CERT: Kind = Kind::Object(&[("ca_cert", LONG), ("cert", LONG), ("pin", LONG), ("key", LONG)]);
const CERTIFICATE: Kind = Kind::Object(&[
    ("id", LONG),
    ("routes", TEXTS),
    ("cert", LONG),
    ("key", LONG),
    ("created_at", TIME),
    ("updated_at", TIME),
]);
const HSTS: Kind = Kind::Object(&[("max_age", COUNT), ("include_subdomains", FLAG), ("preload", FLAG)]);
const ACME_ERROR: Kind = Kind::Object(&[("type", LONG), ("detail", LONG)]);

/// Names of all strategies.
pub(crate) const STRATEGIES: [&str; 6] = {
    let mut names = [""; 6];
    let mut position = 0;
    while position < names.len() {
        names[position] = match Strategy::ALL[position] {
            Strategy::AllAtOnce => "all-at-once",
            Strategy::OneByOne => "one-by-one",
            Strategy::OneDownOneUp => "one-down-one-up",
            Strategy::InBatches => "in-batches",
            Strategy::Sirenia => "sirenia",
            Strategy::DiscoverdMeta => "discoverd-meta",
        };
        position += 1;
    }
    names
};

const JOB_STATES: &[&str] = &["pending", "blocked", "starting", "up", "stopping", "down", "crashed", "failed"];

macro_rules! bodies {
    ($($object:ty: [$($rule:expr),* $(,)?], [$(($field:literal, $kind:expr)),* $(,)?];)*) => {
        $(impl Checked for $object {
            const RULES: &[Rule] = &[$($rule),*];
            const FIELDS: &[Field] = &[$(($field, $kind)),*];
        })*
    };
}

bodies! {
    App: [Rule::OneOf("strategy", &STRATEGIES)], [
        ("id", NAME), ("name", LONG), ("meta", TEXT_MAP), ("strategy", LONG), ("release", LONG),
        ("deploy_timeout", I32), ("created_at", TIME), ("updated_at", TIME),
    ];
    Artifact: [
        Rule::Required("type"),
        Rule::OneOf("type", &["docker", "file", "flynn"]),
        Rule::Required("uri"),
        Rule::Uri("uri"),
    ], [
        ("id", NAME), ("type", LONG), ("uri", NAME), ("meta", TEXT_MAP), ("manifest", MANIFEST), ("hashes", TEXT_MAP),
        ("size", I64), ("layer_url_template", LONG), ("created_at", TIME),
    ];
    Release: [], [
        ("id", NAME), ("app_id", NAME), ("artifacts", NAMES), ("env", TEXT_MAP), ("meta", TEXT_MAP),
        ("processes", Kind::Map(&PROCESS)), ("created_at", TIME), ("artifact", NAME),
    ];
    Formation: [], [
        ("app", NAME), ("release", NAME), ("processes", COUNTS), ("tags", TAGS), ("created_at", TIME),
        ("updated_at", TIME),
    ];
    ScaleRequest: [Rule::OneOfRequired("state", &["pending", "cancelled", "complete"])], [
        ("id", NAME), ("app", NAME), ("release", NAME), ("state", LONG), ("old_processes", COUNTS),
        ("new_processes", COUNTS), ("old_tags", TAGS), ("new_tags", TAGS), ("created_at", TIME), ("updated_at", TIME),
    ];
    Job: [Rule::OneOf("state", JOB_STATES)], [
        ("id", NAME), ("uuid", NAME), ("host_id", NAME), ("app", NAME), ("release", NAME), ("type", NAME),
        ("state", LONG), ("args", TEXTS), ("volumes", NAMES), ("meta", TEXT_MAP), ("exit_status", I32),
        ("host_error", LONG), ("run_at", TIME), ("restarts", I32), ("created_at", TIME), ("updated_at", TIME),
    ];
    NewJob: [Rule::Required("release"), Rule::OneOf("partition", &["background", "system", "user"])], [
        ("release", NAME), ("artifacts", NAMES), ("release_env", FLAG), ("args", TEXTS), ("env", TEXT_MAP),
        ("meta", TEXT_MAP), ("tty", FLAG), ("tty_columns", U16), ("tty_lines", U16), ("disable_log", FLAG),
        ("resources", RESOURCES), ("data", FLAG), ("partition", LONG), ("profiles", TEXTS), ("mounts_from", LONG),
    ];
    Provider: [Rule::Required("name"), Rule::Required("url"), Rule::Uri("url")], [
        ("id", NAME), ("url", NAME), ("name", NAME), ("created_at", TIME), ("updated_at", TIME),
    ];
    Resource: [], [
        ("id", NAME), ("provider", NAME), ("external_id", NAME), ("env", TEXT_MAP), ("apps", NAMES),
        ("created_at", TIME),
    ];
    ResourceReq: [], [("apps", NAMES), ("config", Kind::Any)];
    Route: [Rule::OneOfRequired("type", &["http", "tcp"])], [
        ("type", LONG), ("id", NAME), ("parent_ref", LONG), ("service", LONG), ("port", U16), ("leader", FLAG),
        ("created_at", TIME), ("updated_at", TIME), ("domain", LONG), ("certificate", CERTIFICATE), ("tls_cert", LONG),
        ("tls_key", LONG), ("sticky", FLAG), ("path", NAME), ("drain_backends", FLAG), ("disable_keep_alives", FLAG),
        ("managed_certificate_domain", SHORT), ("maintenance", FLAG), ("max_body_bytes", COUNT),
        ("backend_protocol", LONG), ("proxy_protocol", LONG), ("https_redirect", FLAG), ("hsts", HSTS),
    ];
    Sink: [Rule::OneOfRequired("kind", &["syslog"])], [
        ("id", NAME), ("kind", LONG), ("host_managed", FLAG), ("config", Kind::Any), ("created_at", TIME),
        ("updated_at", TIME),
    ];
    Volume: [
        Rule::OneOf("type", &["data", "squashfs", "ext2"]),
        Rule::OneOf("state", &["pending", "created", "destroyed"]),
    ], [
        ("path", LONG), ("delete_on_stop", FLAG), ("id", NAME), ("host_id", NAME), ("type", LONG), ("state", LONG),
        ("app", NAME), ("release", NAME), ("job", NAME), ("job_type", NAME), ("meta", TEXT_MAP), ("created_at", TIME),
        ("updated_at", TIME), ("decommissioned_at", TIME),
    ];
    DomainMigration: [], [
        ("id", NAME), ("old_tls_cert", TLS_CERT), ("tls_cert", TLS_CERT), ("old_domain", SHORT), ("domain", SHORT),
        ("created_at", TIME), ("finished_at", TIME),
    ];
    ManagedCertificate: [Rule::OneOfRequired("status", &["pending", "issued", "failed", "renewing"])], [
        ("id", NAME), ("domain", SHORT), ("route_id", NAME), ("status", LONG), ("cert", LONG), ("key", LONG),
        ("expires_at", TIME), ("last_error", LONG), ("last_error_at", TIME), ("order_url", LONG),
        ("errors", Kind::List(&ACME_ERROR)), ("certificate", CERTIFICATE), ("created_at", TIME), ("updated_at", TIME),
    ];
    AcmeConfig: [], [
        ("enabled", FLAG), ("contact_email", SHORT), ("directory_url", Kind::Text(512)),
        ("terms_of_service_agreed", FLAG), ("account_key", LONG), ("has_account_key", FLAG), ("created_at", TIME),
        ("updated_at", TIME),
    ];
    ReleaseRef: [], [("id", LONG), ("deployment", NAME)];
}

/// `{"id": "…"}`, which names a release; other fields ignored.
#[derive(serde::Deserialize)]
pub(crate) struct ReleaseRef {
    #[serde(default)]
    pub(crate) id: Option<String>,
    /// The deployment on whose behalf it is done: not, if that one is over or to end.
    #[serde(default)]
    pub(crate) deployment: Option<String>,
}
