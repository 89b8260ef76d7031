//! Routes of the old domain get siblings in the new one (X16).

use std::collections::BTreeSet;

use flynn_types::controller::{DomainMigration, TlsCert};
use flynn_types::router::{Certificate, Route, RouteKind};

use super::{Failure, Working};

/// What makes a route another one.
type Place = (String, u16, String);

fn place(route: &Route) -> Place {
    (route.domain.to_lowercase(), route.port, route.path.clone())
}

/// The domain with the new one at its end; `None` for one that is elsewhere.
fn moved(domain: &str, old: &str, new: &str) -> Option<String> {
    let (domain, old) = (domain.to_lowercase(), old.to_lowercase());
    let name = domain.strip_suffix(&old)?;
    (name.is_empty() || name.ends_with('.')).then(|| format!("{name}{new}"))
}

/// The routes to create, those of whole domains before those of paths, which need them.
fn siblings(routes: &[Route], migration: &DomainMigration, certificate: &TlsCert) -> Vec<Route> {
    let mut taken: BTreeSet<Place> = routes.iter().map(place).collect();
    let old_certificate = migration.old_tls_cert.as_ref().map(|old| old.cert.trim()).filter(|cert| !cert.is_empty());
    let mut sorted: Vec<_> = routes.iter().filter(|route| route.kind == RouteKind::Http).collect();
    sorted.sort_by_key(|route| (route.path.len(), place(route)));
    let mut siblings = Vec::new();
    for route in sorted {
        let Some(domain) = moved(&route.domain, &migration.old_domain, &migration.domain) else { continue };
        let own = route.key_pair().map(|(cert, key)| (cert.to_owned(), key.to_owned()));
        let pair = match own {
            Some((cert, _)) if Some(cert.trim()) == old_certificate => {
                Some((certificate.cert.clone(), certificate.key.clone()))
            }
            own => own,
        };
        let is_managed = !route.managed_certificate_domain.is_empty();
        let sibling = Route {
            kind: RouteKind::Http,
            parent_ref: route.parent_ref.clone(),
            service: route.service.clone(),
            port: route.port,
            leader: route.leader,
            sticky: route.sticky,
            path: route.path.clone(),
            drain_backends: route.drain_backends,
            disable_keep_alives: route.disable_keep_alives,
            maintenance: route.maintenance,
            max_body_bytes: route.max_body_bytes,
            backend_protocol: route.backend_protocol.clone(),
            proxy_protocol: route.proxy_protocol.clone(),
            https_redirect: route.https_redirect,
            hsts: route.hsts,
            // One that is ordered is ordered for the new domain too.
            managed_certificate_domain: if is_managed { domain.clone() } else { String::new() },
            certificate: pair.filter(|_| !is_managed).map(|(cert, key)| Certificate {
                cert,
                key,
                ..Certificate::default()
            }),
            domain,
            ..Route::default()
        };
        if taken.insert(place(&sibling)) {
            siblings.push(sibling);
        }
    }
    siblings
}

impl Working<'_> {
    pub(super) async fn add_routes(&self, migration: &DomainMigration, certificate: &TlsCert) -> Result<(), Failure> {
        let controller = &self.context.controller;
        let known = self.patiently(async || controller.routes().await).await?;
        let readable = known
            .into_iter()
            .filter_map(|route| route.inspect_err(|err| tracing::warn!(%err, "a route stays as it is")).ok());
        for route in siblings(&readable.collect::<Vec<_>>(), migration, certificate) {
            self.go_on().await?;
            let Some(app) = route.parent_ref.strip_prefix("controller/apps/").map(str::to_owned) else { continue };
            match self.patiently(async || controller.create_route(&app, &route).await).await {
                Ok(_) => {}
                // Its app is gone, or somebody made it.
                Err(Failure::Controller(err)) if err.is_not_found() || err.status() == Some(409) => {
                    tracing::info!(domain = route.domain, %err, "a route is not made");
                }
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(domain: &str, path: &str, cert: &str) -> Route {
        let certificate = Certificate { cert: cert.into(), key: "k".into(), ..Certificate::default() };
        Route {
            domain: domain.into(),
            path: path.into(),
            service: "s".into(),
            sticky: true,
            certificate: Some(certificate).filter(|certificate| !certificate.cert.is_empty()),
            ..Route::default()
        }
    }

    #[test]
    fn x16_routes_of_the_old_domain_get_siblings() {
        let cert = |text: &str| TlsCert { cert: text.into(), key: format!("{text}-key"), ..TlsCert::default() };
        let migration = DomainMigration {
            old_domain: "old.example".into(),
            domain: "new.example".into(),
            old_tls_cert: Some(cert("OLD\n")),
            ..DomainMigration::default()
        };
        let routes = [
            route("shop.old.example", "/deep/", "OLD"),
            route("shop.OLD.example", "/", "OLD"),
            route("own.old.example", "/", "OWN"),
            route("old.example", "/", ""),
            route("there.old.example", "/", ""),
            route("there.new.example", "/", ""),
            route("notold.example", "/", ""),
            route("old.example.com", "/", ""),
            Route { kind: RouteKind::Tcp, ..route("", "", "") },
            Route { managed_certificate_domain: "m.old.example".into(), ..route("m.old.example", "/", "ISSUED") },
        ];
        let made = siblings(&routes, &migration, &cert("NEW"));
        let text = |route: &Route| {
            let cert = route.certificate.as_ref().map_or("-", |certificate| &certificate.cert);
            let managed = &route.managed_certificate_domain;
            assert!(route.sticky && route.service == "s");
            format!("{}{} {cert} {managed}", route.domain, route.path)
        };
        let made: Vec<_> = made.iter().map(text).collect();
        let expected = [
            "m.new.example/ - m.new.example",
            "new.example/ - ",
            "own.new.example/ OWN ",
            "shop.new.example/ NEW ",
            "shop.new.example/deep/ NEW ",
        ];
        assert_eq!(made, expected);
    }
}
