//! The JSON of Go's peers, byte by byte.

use std::collections::BTreeMap;

use super::*;
use crate::discoverd::ServiceMeta;

const HEALTHY: &str = concat!(
    r#"{"generation":3,"init_wal":"0/0B000060","#,
    r#""primary":{"id":"p","addr":"100.100.1.5:5432","proto":"tcp","meta":{"POSTGRES_ID":"b"},"index":31},"#,
    r#""sync":{"id":"s","addr":"100.100.2.9:5432","proto":"tcp","meta":{"POSTGRES_ID":"c"},"index":34},"#,
    r#""async":[{"id":"a","addr":"100.100.3.2:5432","proto":"tcp","meta":{"POSTGRES_ID":"a"},"index":57}]}"#,
);
const SINGLETON: &str = concat!(
    r#"{"generation":1,"#,
    r#""freeze":{"frozen_at":"2015-10-01T10:00:00.5Z","reason":"cluster started in singleton mode"},"#,
    r#""singleton":true,"init_wal":"0/00000000","#,
    r#""primary":{"id":"p","addr":"100.100.1.5:5432","proto":"tcp","index":31},"sync":null,"async":null}"#,
);
const DEPOSED: &str = concat!(
    r#"{"generation":2,"init_wal":"","primary":null,"sync":null,"async":null,"#,
    r#""deposed":[{"id":"d","addr":"1.1.1.1:3306","proto":"tcp"}],"tunables":{"data":{"max":"5"},"version":2},"#,
    r#""from_the_future":[1,{"b":2}]}"#,
);

fn state(text: &str) -> ClusterState {
    serde_json::from_str(text).unwrap()
}

#[test]
fn states_of_go_peers_are_read_and_written_to_the_byte_and_what_is_unknown_stays() {
    for text in [HEALTHY, SINGLETON, DEPOSED] {
        assert_eq!(serde_json::to_string(&state(text)).unwrap(), text);
    }
    assert_eq!(state(&HEALTHY.replace("\"async\":[{", "\"deposed\":null,\"async\":[{")), state(HEALTHY));
    assert_eq!(state(&SINGLETON.replace("\"async\":null", "\"async\":[]")), state(SINGLETON));
    assert_eq!(state(HEALTHY).members().map(|member| member.index).collect::<Vec<_>>(), [31, 34, 57]);
}

/// A38
#[test]
fn nothing_null_and_an_empty_state_are_no_state() {
    let read = |data: &str| {
        let meta: ServiceMeta = serde_json::from_str(data).unwrap();
        ClusterState::from_meta(&meta)
    };
    for none in ["{}", r#"{"data":null}"#, r#"{"data":{}}"#, r#"{"data":{"generation":0,"primary":null,"async":[]}}"#] {
        assert_eq!(read(none).unwrap(), None, "{none}");
    }
    assert_eq!(read(&format!(r#"{{"data":{HEALTHY},"index":9}}"#)).unwrap(), Some(state(HEALTHY)));
    for wrong in [r#"{"data":5}"#, r#"{"data":{"generation":-1}}"#, r#"{"data":{"generation":"1"}}"#] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_status_is_what_go_clients_expect() {
    let text = concat!(
        r#"{"peer":{"id":"b","role":"primary","retry_pending":"2015-10-01T10:00:00Z","state":null,"peers":[]},"#,
        r#""database":{"config":{"role":"none","upstream":null,"downstream":null,"state":null},"running":true,"#,
        r#""synced_downstream":null,"xlog":"0/1","user_exists":true,"read_write":false}}"#,
    );
    let status: Status = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&status).unwrap(), text);
    let empty: Status = serde_json::from_str(r#"{"peer":{"peers":null},"database":null}"#).unwrap();
    assert_eq!(empty.peer.unwrap().role, Role::Unknown);
    assert_eq!(serde_json::from_str::<Role>(r#""captain""#).unwrap(), Role::Unknown);
    for (role, name) in Role::NAMES {
        assert_eq!(serde_json::from_str::<Role>(&format!("\"{name}\"")).unwrap(), role);
    }
}

#[test]
fn a_peer_is_its_volume_and_not_its_address() {
    let key = IdKey::of_process_type("mariadb").unwrap();
    let at = |addr: &str, meta: &[(&str, &str)]| {
        let meta = meta.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Instance::new("tcp", addr, BTreeMap::from_iter(meta))
    };
    let peer = at("10.0.0.1:3306", &[("MARIADB_ID", "x")]);
    assert!(key.same(&peer, &at("10.0.0.2:3306", &[("MARIADB_ID", "x")])), "another address");
    assert!(key.same(&peer, &at("10.0.0.2:3306", &[("MYSQL_ID", "x")])), "the Go implementation's key");
    assert!(!key.same(&peer, &at("10.0.0.1:3306", &[("MARIADB_ID", "y")])), "another volume at its address");
    let nameless = at("10.0.0.1:3306", &[("POSTGRES_ID", "x")]);
    assert_eq!(key.peer(&nameless).0, nameless.id, "who does not say is its address");
    assert_eq!(IdKey::of_process_type("web"), None);
}
