//! Clients behind a load balancer that speaks the PROXY protocol.

use flynn_router::Settings;

use crate::backend::Backend;
use crate::client::from;
use crate::rig::{Rig, members, route, settings};

const GET: &str = "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n";

async fn rig() -> (Backend, Rig) {
    let backend = Backend::named("b").await;
    let services = vec![members("s", &[backend.address])];
    let settings = Settings { proxy_protocol: true, ..settings() };
    let rig = Rig::with(settings, vec![route("example.com", "s")], services).await;
    (backend, rig)
}

#[tokio::test]
async fn h1_h2_h3_h4_h6_h7_the_header_names_the_client() {
    let (backend, rig) = rig().await;
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x01\x01\x7b\x14\x02\x02\x02\x03\xe8\x07\xd0";
    for (header, client) in [
        (&b"PROXY TCP4 1.1.1.123 20.2.2.2 1000 2000\r\n"[..], "1.1.1.123"),
        (b"PROXY TCP6 ffff::ffff ::1 1000 2000\r\n", "ffff::ffff"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (b"", "127.0.0.1"),
        (v2, "1.1.1.123"),
    ] {
        let answer = rig.client().await.ask([header, GET.as_bytes()].concat()).await;
        assert_eq!(answer.text(), "b");
        assert_eq!(backend.last().header("x-forwarded-for"), client);
        // In pieces.
        let mut connection = rig.client().await;
        for byte in header {
            connection.send([*byte]).await;
        }
        assert_eq!(connection.get("example.com", "/").await.text(), "b");
        assert_eq!(backend.last().header("x-forwarded-for"), client);
    }
}

#[tokio::test]
async fn h5_a_wrong_header_ends_the_connection() {
    let (backend, rig) = rig().await;
    for header in ["PROXY TCP4 what 20.2.2.2 1000 2000\r\n".to_owned(), format!("PROXY UNKNOWN {}", "x".repeat(200))] {
        let mut client = rig.client().await;
        client.send(header + GET).await;
        assert!(client.is_closed().await);
    }
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn only_trusted_proxies_may_say_who_the_client_is() {
    let backend = Backend::named("b").await;
    let services = vec![members("s", &[backend.address])];
    let trusted_proxies = vec!["127.0.0.2/32".parse().expect("a network")];
    let settings = Settings { proxy_protocol: true, trusted_proxies, ..settings() };
    let rig = Rig::with(settings, vec![route("example.com", "s")], services).await;
    let header = "PROXY TCP4 1.1.1.123 20.2.2.2 1000 2000\r\n";
    let forwarded = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n";
    let claiming = format!("GET / HTTP/1.1\r\nHost: example.com\r\n{forwarded}\r\n");
    let seen = async |address: &str, bytes: String| {
        let answer = from(address, rig.http()).await.ask(bytes).await;
        let last = || ["x-forwarded-for", "x-forwarded-proto"].map(|name| backend.last().header(name).to_owned());
        if answer.status == 200 { Ok(last()) } else { Err(answer.status) }
    };
    let is = |client: &str, proto: &str| Ok([client.to_owned(), proto.to_owned()]);
    assert_eq!(seen("127.0.0.2", claiming.clone()).await, is("6.6.6.6", "https"), "a proxy's word counts");
    assert_eq!(seen("127.0.0.3", claiming.clone()).await, is("127.0.0.3", "http"), "others' does not");
    assert_eq!(seen("127.0.0.2", format!("{header}{GET}")).await, is("1.1.1.123", "http"));
    assert_eq!(seen("127.0.0.2", format!("{header}{claiming}")).await, is("1.1.1.123", "http"), "its client's neither");
    assert_eq!(seen("127.0.0.3", format!("{header}{GET}")).await, Err(400), "a header of others is no request");
}
