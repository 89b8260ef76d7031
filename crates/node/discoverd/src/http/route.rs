//! Which path means what. Pure.

use http::Method;

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Status,
    Ping,
    Services,
    AddService(String),
    RemoveService(String),
    WatchService(String),
    SetMeta(String),
    Meta(String),
    PutInstance(String),
    RemoveInstance(String, String),
    Instances(String),
    SetLeader(String),
    Leader(String),
    RaftLeader,
    RaftPeers,
    AddPeer(String),
    RemovePeer(String),
    Promote,
    Demote,
    Shutdown,
    Message,
}

/// What to do with a method and a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Routed {
    To(Route),
    /// The path is meant to be this one.
    Redirect(String),
    NotFound,
}

impl Route {
    /// Whether only the leader can do it, so that other nodes redirect.
    pub(super) fn needs_leader(&self) -> bool {
        matches!(
            self,
            Self::AddService(_)
                | Self::RemoveService(_)
                | Self::SetMeta(_)
                | Self::PutInstance(_)
                | Self::RemoveInstance(..)
                | Self::SetLeader(_)
                | Self::AddPeer(_)
                | Self::RemovePeer(_)
        )
    }

    /// Whether containers may ask for it.
    pub(super) fn is_for_guests(&self) -> bool {
        !matches!(
            self,
            Self::AddPeer(_) | Self::RemovePeer(_) | Self::Promote | Self::Demote | Self::Shutdown | Self::Message
        )
    }
}

pub(super) fn route(method: &Method, path: &str) -> Routed {
    if let Some(route) = exact(method, path) {
        return Routed::To(route);
    }
    let fixed = cleaned(path);
    if fixed != path && exact(method, &fixed).is_some() { Routed::Redirect(fixed) } else { Routed::NotFound }
}

/// The path without doubled slashes, and with its fixed words in lower case.
fn cleaned(path: &str) -> String {
    let trailing = path.len() > 1 && path.ends_with('/');
    let mut out = String::new();
    for (position, segment) in path.split('/').filter(|s| !s.is_empty()).enumerate() {
        out.push('/');
        let lower = segment.to_ascii_lowercase();
        // the second segment below /services and the fourth are names
        let is_name = out.starts_with("/services/") && (position == 1 || position == 3);
        out.push_str(if is_name { segment } else { &lower });
    }
    if trailing {
        out.push('/');
    }
    out
}

fn exact(method: &Method, path: &str) -> Option<Route> {
    if let Some(peer) = path.strip_prefix("/raft/peers/") {
        // The Go client's forced demotion sends a URL where an address belongs (spec section 20, W3).
        let peer = decode(peer)?;
        let peer = peer.strip_prefix("http:").map_or(peer.as_str(), |p| p.trim_start_matches('/'));
        return match method.as_str() {
            "PUT" if !peer.is_empty() => Some(Route::AddPeer(peer.to_owned())),
            "DELETE" if !peer.is_empty() => Some(Route::RemovePeer(peer.to_owned())),
            _ => None,
        };
    }
    let segments: Vec<String> = path.strip_prefix('/')?.split('/').map(decode).collect::<Option<_>>()?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let own = |name: &&str| (*name).to_owned();
    Some(match (method.as_str(), segments.as_slice()) {
        ("GET", [".well-known", "status"]) => Route::Status,
        ("GET", ["ping"]) => Route::Ping,
        ("GET", ["services"]) => Route::Services,
        (_, ["services", "", ..]) => return None,
        ("PUT", ["services", name]) => Route::AddService(own(name)),
        ("DELETE", ["services", name]) => Route::RemoveService(own(name)),
        ("GET", ["services", name]) => Route::WatchService(own(name)),
        ("PUT", ["services", name, "meta"]) => Route::SetMeta(own(name)),
        ("GET", ["services", name, "meta"]) => Route::Meta(own(name)),
        ("GET", ["services", name, "instances"]) => Route::Instances(own(name)),
        (_, ["services", _, "instances", ""]) => return None,
        ("PUT", ["services", name, "instances", _]) => Route::PutInstance(own(name)),
        ("DELETE", ["services", name, "instances", id]) => Route::RemoveInstance(own(name), own(id)),
        ("PUT", ["services", name, "leader"]) => Route::SetLeader(own(name)),
        ("GET", ["services", name, "leader"]) => Route::Leader(own(name)),
        ("GET", ["raft", "leader"]) => Route::RaftLeader,
        ("GET", ["raft", "peers"]) => Route::RaftPeers,
        ("POST", ["raft", "promote"]) => Route::Promote,
        ("POST", ["raft", "demote"]) => Route::Demote,
        ("POST", ["raft", "messages"]) => Route::Message,
        ("POST", ["shutdown"]) => Route::Shutdown,
        _ => return None,
    })
}

/// Undoes percent encoding.
fn decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || Some(u8::try_from(char::from(bytes.next()?).to_digit(16)?).unwrap_or(0));
        let (high, low) = (digit()?, digit()?);
        out.push(high << 4 | low);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_where_gos_router_leads() {
        let to = Routed::To;
        let redirect = |path: &str| Routed::Redirect(path.to_owned());
        for (method, path, expected) in [
            ("GET", "/services", to(Route::Services)),
            ("GET", "/services/abc", to(Route::WatchService("abc".into()))),
            ("GET", "/services/ABC", to(Route::WatchService("ABC".into()))),
            ("GET", "/services/abc/", Routed::NotFound),
            ("GET", "/services/", Routed::NotFound),
            ("POST", "/services/abc", Routed::NotFound),
            ("HEAD", "/ping", Routed::NotFound),
            ("GET", "/PING", redirect("/ping")),
            ("GET", "//services//ABC/META", redirect("/services/ABC/meta")),
            ("PUT", "/services/a/instances/x%2Fy", to(Route::PutInstance("a".into()))),
            ("DELETE", "/services/a/instances/x%2Fy", to(Route::RemoveInstance("a".into(), "x/y".into()))),
            ("PUT", "/services/a/instances/", Routed::NotFound),
            ("PUT", "/services/a%zz", Routed::NotFound),
            ("DELETE", "/raft/peers/10.0.0.4:1111", to(Route::RemovePeer("10.0.0.4:1111".into()))),
            ("DELETE", "/raft/peers/http://10.0.0.4:1111", to(Route::RemovePeer("10.0.0.4:1111".into()))),
            ("DELETE", "/raft/peers/http:/10.0.0.4:1111", to(Route::RemovePeer("10.0.0.4:1111".into()))),
            ("PUT", "/raft/peers/http:%2F%2F10.0.0.4:1111", to(Route::AddPeer("10.0.0.4:1111".into()))),
            ("DELETE", "/raft/peers/", Routed::NotFound),
            ("GET", "*", Routed::NotFound),
        ] {
            assert_eq!(route(&method.parse().unwrap(), path), expected, "{method} {path}");
        }
    }
}
