//! Automatic certificates of the router: their options, and the engine that orders them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Args;
use flynn_acme::store::Store as _;
use flynn_acme::store::folder::FolderStore;
use flynn_acme::{ChallengeKind, Engine, Pace, Settings, View};
use flynn_router::Router;
use flynn_router::source::{Change, acme};
use flynn_telemetry::Metrics;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::task::JoinSet;
use tracing::warn;

/// The directory of Let's Encrypt (spec router section 20.3).
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Options of automatic certificates; what they leave open, variables of the same names in capitals say.
#[derive(Args, Debug)]
pub(crate) struct AcmeOptions {
    /// Folder of automatic certificates, which routers may share; switches them on [variable: ACME_FOLDER]
    #[arg(long, value_name = "DIR")]
    acme_folder: Option<PathBuf>,
    /// Directory of the certificate authority [variable: ACME_DIRECTORY] [default: Let's Encrypt's]
    #[arg(long, value_name = "URL")]
    acme_directory: Option<String>,
    /// Where the certificate authority writes to [variable: ACME_EMAIL]
    #[arg(long, value_name = "EMAIL")]
    acme_email: Option<String>,
    /// Agree to the certificate authority's terms of service [variable: ACME_AGREE_TOS=true]
    #[arg(long)]
    acme_agree_tos: bool,
    /// PEM file of authorities to trust for the directory, in place of the system's [variable: ACME_CA]
    #[arg(long, value_name = "FILE")]
    acme_ca: Option<PathBuf>,
    /// How domains are proven first: http-01, or tls-alpn-01 [variable: ACME_CHALLENGE] [default: http-01]
    #[arg(long, value_name = "KIND")]
    acme_challenge: Option<String>,
}

/// Where certificates are kept, and how they are ordered.
#[derive(Debug)]
pub(crate) struct Automatic {
    folder: PathBuf,
    settings: Settings,
}

impl AcmeOptions {
    /// What options and variables say together; `None` when automatic certificates are off.
    pub(crate) fn automatic(
        &self,
        vars: &impl Fn(&str) -> Option<String>,
        router: &flynn_router::Settings,
    ) -> anyhow::Result<Option<Automatic>> {
        let Some(folder) = self.acme_folder.clone().or_else(|| vars("ACME_FOLDER").map(PathBuf::from)) else {
            return Ok(None);
        };
        if !self.acme_agree_tos && vars("ACME_AGREE_TOS").is_none_or(|text| text != "true") {
            bail!(
                "automatic certificates need your consent to the authority's terms: --acme-agree-tos, or ACME_AGREE_TOS=true"
            );
        }
        let Some(email) = self.acme_email.clone().or_else(|| vars("ACME_EMAIL")) else {
            bail!(
                "automatic certificates need an address that the authority may write to: --acme-email, or ACME_EMAIL"
            );
        };
        let directory = self.acme_directory.clone().or_else(|| vars("ACME_DIRECTORY"));
        let directory = directory.unwrap_or_else(|| LETS_ENCRYPT.to_owned());
        if !directory.starts_with("https://") {
            bail!("ACME_DIRECTORY is {directory:?}, it must begin with https://");
        }
        let roots = self.acme_ca.clone().or_else(|| vars("ACME_CA").map(PathBuf::from));
        let roots = roots.map(|path| roots_of(&path)).transpose()?;
        let wish = self.acme_challenge.clone().or_else(|| vars("ACME_CHALLENGE"));
        let wish: Option<ChallengeKind> =
            wish.map(|text| text.parse().map_err(anyhow::Error::msg).context("read ACME_CHALLENGE")).transpose()?;
        let challenges = challenges(wish, router);
        let settings = Settings { directory, email: Some(email), roots, challenges, pace: Pace::default() };
        Ok(Some(Automatic { folder, settings }))
    }
}

/// What the router's ports can answer, the wish first.
fn challenges(wish: Option<ChallengeKind>, router: &flynn_router::Settings) -> Vec<ChallengeKind> {
    let served = |tls| router.http.iter().any(|port| port.default && port.tls == tls);
    let mut challenges = Vec::new();
    for (kind, tls) in [(ChallengeKind::Http01, false), (ChallengeKind::TlsAlpn01, true)] {
        if served(tls) {
            challenges.push(kind);
        }
    }
    challenges.sort_by_key(|kind| wish != Some(*kind));
    challenges
}

fn roots_of(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let roots: Vec<_> = CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().unwrap_or_default();
    if roots.is_empty() {
        bail!("{} holds no certificates in PEM", path.display());
    }
    Ok(roots)
}

/// Opens the folder, and tells the router what is there: to be done before it gets its routes, so that the first connection
/// finds the certificates that are there already.
pub(crate) async fn open(automatic: &Automatic, router: &Router) -> anyhow::Result<Arc<FolderStore>> {
    let store =
        FolderStore::open(automatic.folder.clone()).await.context("open the folder of automatic certificates")?;
    let contents = store.read().await.context("read the automatic certificates")?;
    let known = Change::Automatic(Arc::new(View::of(&contents)));
    router.changes().send(known).await.context("take in the automatic certificates")?;
    Ok(Arc::new(store))
}

/// Begins to order what the routes want, and to tell the router of it.
pub(crate) fn start(
    automatic: Automatic,
    store: Arc<FolderStore>,
    router: &Router,
    metrics: &Metrics,
    sources: &mut JoinSet<()>,
) -> Engine {
    let engine = Engine::start(automatic.settings, store, router.automatic_domains(), metrics);
    sources.spawn(acme::follow(engine.view(), router.changes()));
    engine
}

/// Says that routes want what nobody does.
pub(crate) fn warn_when_wanted(router: &Router, sources: &mut JoinSet<()>) {
    let mut wanted = router.automatic_domains();
    sources.spawn(async move {
        if wanted.wait_for(|domains| !domains.is_empty()).await.is_ok() {
            warn!("routes want automatic certificates, which are off: --acme-folder switches them on");
        }
    });
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        options: AcmeOptions,
    }

    /// What these arguments and variables say to a router with these default ports.
    fn automatic(arguments: &[&str], variables: &[(&str, &str)], tls: &[bool]) -> anyhow::Result<Option<Automatic>> {
        let options = Command::try_parse_from(["router"].iter().chain(arguments))?.options;
        let port = |tls: &bool| flynn_router::HttpPort { port: 0, tls: *tls, default: true };
        let router = flynn_router::Settings {
            listen: None,
            listen_tcp: None,
            http: tls.iter().map(port).collect(),
            api: None,
            proxy_protocol: false,
            trusted_proxies: Vec::new(),
            cookie_key: flynn_router::CookieKey::random(),
            default_certificate: None,
            unavailable_page: None,
            workers: 1,
            access_log: false,
            limits: flynn_router::Limits::default(),
        };
        let variable =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        options.automatic(&variable, &router)
    }

    const ALL: [(&str, &str); 3] =
        [("ACME_FOLDER", "/acme"), ("ACME_EMAIL", "a@example.com"), ("ACME_AGREE_TOS", "true")];

    #[test]
    fn automatic_certificates_are_off_unless_there_is_a_folder() {
        assert!(automatic(&["--acme-email", "a@example.com", "--acme-agree-tos"], &[], &[true]).unwrap().is_none());
        let options = ["--acme-folder", "/acme", "--acme-email", "a@example.com", "--acme-agree-tos"];
        for on in [automatic(&options, &[], &[false, true]), automatic(&[], &ALL, &[false, true])] {
            let on = on.expect("no mistake").expect("they are on");
            assert_eq!((on.folder, &*on.settings.directory), (PathBuf::from("/acme"), LETS_ENCRYPT));
            assert_eq!(on.settings.email.as_deref(), Some("a@example.com"));
            assert_eq!(on.settings.challenges, [ChallengeKind::Http01, ChallengeKind::TlsAlpn01]);
        }
    }

    #[test]
    fn the_wish_is_tried_first_and_what_no_port_answers_is_not_tried() {
        use ChallengeKind::{Http01, TlsAlpn01};
        let challenges = |wish: &[&str], tls: &[bool]| {
            automatic(wish, &ALL, tls).expect("no mistake").expect("they are on").settings.challenges
        };
        assert_eq!(challenges(&["--acme-challenge", "tls-alpn-01"], &[false, true]), [TlsAlpn01, Http01]);
        assert_eq!(challenges(&[], &[true]), [TlsAlpn01]);
        assert_eq!(challenges(&["--acme-challenge", "http-01"], &[true]), [TlsAlpn01]);
    }

    #[test]
    fn mistakes_name_their_variable() {
        for (name, value) in [
            ("ACME_AGREE_TOS", "no"),
            ("ACME_DIRECTORY", "http://ca"),
            ("ACME_CHALLENGE", "dns-01"),
            ("ACME_CA", "/nowhere.pem"),
        ] {
            let variables: Vec<_> = [(name, value)].into_iter().chain(ALL).collect();
            let err = format!("{:#}", automatic(&[], &variables, &[true]).expect_err("this is a mistake"));
            assert!(err.contains(name) || err.contains(value), "{name}: {err}");
        }
        let err = automatic(&["--acme-folder", "/acme", "--acme-agree-tos"], &[], &[true]).expect_err("no address");
        assert!(err.to_string().contains("ACME_EMAIL"), "{err}");
    }
}
