//! Servers by the names of their services, without DNS.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rand::seq::SliceRandom as _;

use crate::Client;

/// Domain of all services.
const DOMAIN: &str = ".discoverd";

impl Client {
    /// An HTTP client of the servers at `base`, such as `http://controller.discoverd` or, for the one that leads,
    /// `http://leader.postgres.discoverd`. Where they are is asked here for each new connection, so it works also where no
    /// server of names knows the domain. Other names are the system's.
    pub fn http(&self, base: &str) -> flynn_http::Client {
        let discoverd = self.clone().with_patience(Duration::ZERO); // whoever sends the request knows when to try again
        flynn_http::Client::with_lookup(base, move |name| {
            let (name, discoverd) = (name.strip_suffix(DOMAIN)?.to_owned(), discoverd.clone());
            Some(Box::pin(async move { discoverd.addresses(&name).await }))
        })
    }

    /// Addresses of a service's instances, in any order; of `leader.SERVICE` only the leader's.
    async fn addresses(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        let found = match name.strip_prefix("leader.") {
            Some(service) => self.leader(service).await.map(|leader| leader.into_iter().collect()),
            None => self.instances(name).await,
        };
        let mut found: Vec<SocketAddr> =
            found.map_err(io::Error::other)?.iter().filter_map(|instance| instance.addr.parse().ok()).collect();
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("no instance of {name} is registered")));
        }
        found.shuffle(&mut rand::rng());
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use axum::Router;
    use axum::extract::Path;
    use axum::routing::get;
    use flynn_types::discoverd::Instance;

    use super::*;

    async fn serve(router: Router) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        addr
    }

    #[tokio::test]
    async fn requests_go_to_the_instances_of_the_name() {
        let server = |word: &'static str| Router::new().route("/word", get(async move || axum::Json(word)));
        let (one, two) = (serve(server("any")).await, serve(server("leader")).await);
        // Nobody listens at port 1: the other instance is tried.
        let of = |addr: &str| Instance::new("http", addr, BTreeMap::new());
        let instances = vec![of("127.0.0.1:1"), of(&one.to_string())];
        let registry = Router::new()
            .route(
                "/services/{service}/instances",
                get(async move |Path(service): Path<String>| {
                    axum::Json(if service == "web" { instances } else { Vec::new() })
                }),
            )
            .route("/services/{service}/leader", get(async move || axum::Json(of(&two.to_string()))));
        let discoverd = Client::from_list(&serve(registry).await.to_string()).unwrap();
        for (base, expected) in [
            ("http://web.discoverd", Ok("any")),
            ("http://leader.web.discoverd", Ok("leader")),
            ("http://mail.discoverd", Err("no instance of mail is registered")),
        ] {
            let got = discoverd.http(base).get_json::<String>("/word").await.map_err(|err| err.to_string());
            match expected {
                Ok(word) => assert_eq!(got.as_deref(), Ok(word)),
                Err(why) => assert!(got.clone().unwrap_err().contains(why), "{got:?}"),
            }
        }
    }
}
