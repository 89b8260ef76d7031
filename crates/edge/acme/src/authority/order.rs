//! One order, from its beginning or from wherever it was left.
//!
//! Before each step that the authority remembers, what we need afterwards is in the store: the key before the order is
//! finished, the order's URL before it is proven, the challenge before it is announced.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use instant_acme::{
    AuthorizationStatus, ChallengeStatus, ChallengeType, Identifier, NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use tracing::debug;

use super::account::account;
use super::{OrderError, Transport};
use crate::chain;
use crate::challenge::{Challenge, ChallengeKind};
use crate::domain::Domain;
use crate::managed::{Issued, KeyPem, Managed, OpenOrder};
use crate::settings::Settings;
use crate::store::Lease;

/// What an order needs.
pub(crate) struct Context<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) lease: &'a Arc<dyn Lease>,
    /// How long a challenge takes to be answered by all routers.
    pub(crate) propagation: Duration,
    /// Held while an account is looked at or made.
    pub(crate) accounts: &'a tokio::sync::Mutex<()>,
}

impl Context<'_> {
    fn failed(&self, what: &'static str) -> impl FnOnce(instant_acme::Error) -> OrderError {
        let directory = self.settings.directory.clone();
        move |err| OrderError::at(what, &directory, err)
    }

    /// How often an order is looked at: soon at first, less and less often, and not for ever.
    fn polling(&self) -> RetryPolicy {
        let first = Duration::from_millis(250);
        RetryPolicy::new().initial_delay(first).backoff(1.5).timeout(self.settings.pace.order_timeout)
    }
}

/// Places an order and notes it in the record.
pub(crate) async fn place(
    context: &Context<'_>,
    transport: &Transport,
    managed: &mut Managed,
    kind: ChallengeKind,
) -> Result<OpenOrder, OrderError> {
    let account = account(context, transport).await?;
    let identifiers = [Identifier::Dns(managed.domain.to_string())];
    let placed = account.new_order(&NewOrder::new(&identifiers)).await.map_err(context.failed("place an order"))?;
    let (url, _state) = placed.into_parts();
    let key = KeyPem::new(KeyPair::generate()?.serialize_pem());
    let order = OpenOrder { directory: context.settings.directory.clone(), url, key, challenge: kind };
    managed.order = Some(order.clone());
    managed.updated_at = Utc::now();
    context.lease.put(managed).await?;
    Ok(order)
}

/// Brings an order to its end.
pub(crate) async fn finish(
    context: &Context<'_>,
    transport: &Transport,
    domain: &Domain,
    open: &OpenOrder,
) -> Result<Issued, OrderError> {
    let account = account(context, transport).await?;
    let mut order = account.order(open.url.clone()).await.map_err(context.failed("find the order"))?;
    let mut kind = open.challenge;
    if order.state().status == OrderStatus::Pending {
        kind = prove(context, &mut order, domain, open.challenge).await?;
        let polled = order.poll_ready(&context.polling()).await;
        let outcome = unverified(&mut order, domain, kind).await;
        let _ = context.lease.remove_challenge(domain).await; // the engine removes what is left
        outcome?;
        polled.map_err(context.failed("verify the domain"))?;
    }
    match order.state().status {
        OrderStatus::Ready => {
            let request = request(domain, &open.key)?;
            order.finalize_csr(&request).await.map_err(context.failed("issue the certificate"))?;
        }
        OrderStatus::Processing | OrderStatus::Valid => {}
        OrderStatus::Pending => return Err(OrderError::Slow { what: "the verification" }),
        OrderStatus::Invalid => {
            unverified(&mut order, domain, kind).await?;
            return Err(OrderError::Refused { what: "fulfil the order", problem: failure(&mut order) });
        }
    }
    let polled = order.poll_certificate(&context.polling()).await;
    let chain = polled.map_err(context.failed("issue the certificate"))?;
    let validity = chain::check(&chain, &open.key, domain, Utc::now())?;
    Ok(Issued {
        chain,
        key: open.key.clone(),
        not_before: validity.not_before,
        not_after: validity.not_after,
        directory: open.directory.clone(),
        challenge: kind,
    })
}

/// Answers what the authority asks. Gives the kind of challenge that was used.
async fn prove(
    context: &Context<'_>,
    order: &mut Order,
    domain: &Domain,
    wish: ChallengeKind,
) -> Result<ChallengeKind, OrderError> {
    let mut used = wish;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(context.failed("get the challenges"))?;
        match authorization.status {
            AuthorizationStatus::Pending => {}
            // The domain was proven not long ago; what is invalid shows in the order.
            _ => continue,
        }
        let offers = |kind| authorization.challenges.iter().any(|challenge| kind_of(&challenge.r#type) == Some(kind));
        let mine = [wish].into_iter().chain(context.settings.challenges.iter().copied()).find(|kind| offers(*kind));
        let Some(kind) = mine else {
            let offered: Vec<_> =
                authorization.challenges.iter().map(|challenge| format!("{:?}", challenge.r#type)).collect();
            return Err(OrderError::NoChallenge { domain: domain.clone(), offered: offered.join(", ") });
        };
        used = kind;
        let mut challenge = authorization.challenge(type_of(kind)).expect("it was found just now");
        if challenge.status != ChallengeStatus::Pending {
            // Announced before we were interrupted. The answer may be gone by now: give it again.
            debug!(%domain, "challenge was announced before");
        }
        let key_authorization = challenge.key_authorization().as_str().to_owned();
        let token = challenge.token.clone();
        let answer = Challenge { domain: domain.clone(), kind, token, key_authorization };
        context.lease.put_challenge(&answer).await?;
        tokio::time::sleep(context.propagation).await;
        if challenge.status == ChallengeStatus::Pending {
            challenge.set_ready().await.map_err(context.failed("begin the verification"))?;
        }
    }
    Ok(used)
}

fn kind_of(kind: &ChallengeType) -> Option<ChallengeKind> {
    match kind {
        ChallengeType::Http01 => Some(ChallengeKind::Http01),
        ChallengeType::TlsAlpn01 => Some(ChallengeKind::TlsAlpn01),
        _ => None,
    }
}

fn type_of(kind: ChallengeKind) -> ChallengeType {
    match kind {
        ChallengeKind::Http01 => ChallengeType::Http01,
        ChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
    }
}

/// An error when a challenge of the order has failed: the order itself does not say why.
async fn unverified(order: &mut Order, domain: &Domain, used: ChallengeKind) -> Result<(), OrderError> {
    if order.state().status != OrderStatus::Invalid {
        return Ok(());
    }
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_err() {
            continue;
        }
        let failed = authorization.challenges.iter().find_map(|challenge| {
            let problem = challenge.error.clone()?;
            Some((kind_of(&challenge.r#type).unwrap_or(used), problem))
        });
        if let Some((kind, problem)) = failed {
            return Err(OrderError::Unverified { domain: domain.clone(), kind, problem });
        }
    }
    Ok(())
}

/// What the order says of its failure.
fn failure(order: &mut Order) -> Problem {
    let unknown = || Problem {
        r#type: None,
        detail: Some("the authority gives no reason".to_owned()),
        status: None,
        subproblems: Vec::new(),
    };
    order.state().error.clone().unwrap_or_else(unknown)
}

/// The request for a certificate: the domain is a subject alternative name, as browsers demand.
fn request(domain: &Domain, key: &KeyPem) -> Result<Vec<u8>, OrderError> {
    let mut params = CertificateParams::new(vec![domain.to_string()])?;
    params.distinguished_name = DistinguishedName::new();
    let key = KeyPair::from_pem(key.reveal())?;
    Ok(params.serialize_request(&key)?.der().to_vec())
}
