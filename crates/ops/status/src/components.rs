//! What a cluster consists of (spec operations section 13.1).

/// A component, and where it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Component {
    /// As it is shown.
    pub name: &'static str,
    pub service: &'static str,
    pub who: Who,
    /// Where another port than the registered one answers.
    pub port: Option<u16>,
    /// Shown, but not needed for a healthy cluster.
    pub optional: bool,
}

/// Which instances speak for a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// One that is healthy is enough.
    Any,
    Leader,
}

const fn any(name: &'static str) -> Component {
    Component { name, service: name, who: Who::Any, port: None, optional: false }
}

const fn leader(name: &'static str) -> Component {
    Component { who: Who::Leader, ..any(name) }
}

const fn database(name: &'static str, port: u16) -> Component {
    Component { port: Some(port), ..leader(name) }
}

/// All of them.
pub const COMPONENTS: &[Component] = &[
    any("blobstore"),
    any("controller"),
    leader("controller-scheduler"),
    any("controller-worker"),
    any("discoverd"),
    any("flannel"),
    // Optional until clusters are made with it.
    Component { optional: true, ..any("gitreceive") },
    Component { optional: true, ..any("tarreceive") },
    Component { port: Some(80), ..leader("logaggregator") },
    database("postgres", 5433),
    Component { optional: true, ..database("mariadb", 3307) },
    Component { optional: true, ..database("mongodb", 27018) },
    Component { service: "router-api", ..any("router") },
];
