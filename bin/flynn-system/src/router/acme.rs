//! Automatic certificates of the router: their options, and the engine that orders them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use flynn_acme::store::folder::FolderStore;
use flynn_acme::{ChallengeKind, Engine, Pace, Settings};
use flynn_router::Router;
use flynn_router::source::{Change, acme};
use flynn_telemetry::Metrics;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::task::JoinSet;
use tracing::warn;

/// How long the folder's content is waited for.
const STORE_LIMIT: Duration = Duration::from_secs(5);
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

/// Begins to order certificates, and to tell the router of them.
pub(crate) async fn start(
    automatic: Automatic,
    router: &Router,
    metrics: &Metrics,
    sources: &mut JoinSet<()>,
) -> anyhow::Result<Engine> {
    let store = FolderStore::open(automatic.folder).await.context("open the folder of automatic certificates")?;
    let engine = Engine::start(automatic.settings, Arc::new(store), router.automatic_domains(), metrics);
    // Who takes over from another router has to have the certificates that the other one presents.
    let (mut view, mut applied) = (engine.view(), router.applied());
    if tokio::time::timeout(STORE_LIMIT, view.changed()).await.is_err() {
        warn!("the folder of automatic certificates does not answer, serving without them");
    }
    let stored = Change::Automatic(Arc::clone(&view.borrow_and_update()));
    applied.mark_unchanged();
    router.changes().send(stored).await.context("take in the automatic certificates")?;
    let _ = applied.changed().await; // the router lives
    sources.spawn(acme::follow(engine.view(), router.changes()));
    Ok(engine)
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
