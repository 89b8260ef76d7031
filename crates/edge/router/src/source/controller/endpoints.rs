//! Where controllers are, and the key for them.

use std::fmt;

use flynn_discoverd_client::{Client, View};
use flynn_types::discoverd::EventKind;
use tokio::sync::watch;

/// The service of controllers in discoverd.
const SERVICE: &str = "controller";
/// Metadata of their instances: a key of the API (spec router section 2.5).
const AUTH_KEY: &str = "AUTH_KEY";

/// A controller and one of its keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub url: String,
    key: String,
}

/// The controllers that are known, as they come and go.
pub type Endpoints = watch::Receiver<Vec<Endpoint>>;

impl Endpoint {
    /// A controller, such as `http://10.0.0.1:3000`.
    pub fn new(url: &str, key: &str) -> Self {
        Self { url: url.to_owned(), key: key.to_owned() }
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }
}

/// Without the key.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Follows the controllers in discoverd until nobody listens. Their key is that of their metadata, unless one is given.
pub async fn locate(client: Client, key: Option<String>, endpoints: watch::Sender<Vec<Endpoint>>) {
    let mut watch = client.watch(SERVICE);
    let mut complete = false;
    loop {
        let event = tokio::select! {
            event = watch.next() => event,
            () = endpoints.closed() => return,
        };
        // Before the first replay is over the view lacks instances that are there.
        complete |= event.kind == EventKind::Current;
        if complete {
            let now = endpoints_of(watch.view(), key.as_deref());
            endpoints.send_if_modified(|known| {
                let differ = *known != now;
                *known = now;
                differ
            });
        }
    }
}

/// One without a key is of no use.
fn endpoints_of(view: &View, key: Option<&str>) -> Vec<Endpoint> {
    let usable = view.instances.values().filter_map(|instance| {
        let key = key.or_else(|| instance.meta.get(AUTH_KEY).map(String::as_str))?;
        Some(Endpoint::new(&format!("http://{}", instance.addr), key))
    });
    usable.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use flynn_types::discoverd::Instance;

    use super::*;

    #[test]
    fn keys_come_with_the_controllers_unless_one_is_given() {
        let meta = BTreeMap::from([(AUTH_KEY.to_owned(), "k".to_owned())]);
        let [with, without] = [("10.0.0.1:3000", meta), ("10.0.0.2:3000", BTreeMap::new())]
            .map(|(address, meta)| Instance::new("http", address, meta));
        let instances = [&with, &without].map(|instance| (instance.id.clone(), instance.clone())).into();
        let view = View { instances, ..View::default() };
        assert_eq!(endpoints_of(&view, None), [Endpoint::new("http://10.0.0.1:3000", "k")]);
        let given = endpoints_of(&view, Some("g"));
        assert!(given.len() == 2 && given.iter().all(|endpoint| endpoint.key == "g"), "{given:?}");
        assert!(!format!("{:?}", Endpoint::new("http://a", "secret")).contains("secret"));
    }
}
