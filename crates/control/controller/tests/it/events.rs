use axum::http::Method;
use flynn_types::controller::{Event, EventType};
use serde_json::{Value, json};
use sqlx::Executor as _;

use crate::fixture::{Controller, KEY, authorization, data};

#[tokio::test]
async fn e1_e5_lists_are_filtered() {
    let controller = Controller::start().await;
    for name in ["a", "b", "c"] {
        controller.app(name).await;
    }
    let list = async |query: &str| controller.get(&format!("/events{query}")).await.json::<Vec<Event>>();
    let names = |events: &[Event]| {
        events.iter().map(|event| data(event)["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = list("").await;
    assert_eq!(names(&all), ["c", "b", "a"]);
    assert_eq!(names(&list("?count=2").await), ["c", "b"]);
    assert_eq!(names(&list("?app_id=b&object_types=app,release").await), ["b"]);
    assert_eq!(list("?object_types=release").await.len(), 0);
    assert_eq!(names(&list(&format!("?object_id={}", all[2].object_id)).await), ["a"]);
    assert_eq!(names(&list(&format!("?before_id={}&since_id={}", all[0].id, all[2].id)).await), ["b"]);
    let one: Event = controller.get(&format!("/events/{}", all[1].id)).await.json();
    assert_eq!((one.id, one.object_type), (all[1].id, Some(EventType::App)));
    controller.get("/events/999999").await.not_found();
    controller.get("/events/x").await.not_found();
    controller.get("/events?app_id=nobody").await.not_found();
    for parameter in ["count", "before_id", "since_id"] {
        controller.get(&format!("/events?{parameter}=x")).await.error(400, &format!("{parameter} is invalid"));
    }
}

#[tokio::test]
async fn e3_e4_a_stream_begins_where_it_is_told_and_goes_on() {
    let controller = Controller::start().await;
    for name in ["a", "b", "c"] {
        controller.app(name).await;
    }
    let name = |event: &Event| data(event)["name"].as_str().unwrap().to_owned();
    let all = controller.events("app").await;
    let mut past = controller.stream::<Event>("/events?past=true").await;
    let mut newest = controller.stream::<Event>("/events?past=true&count=1").await;
    let mut now = controller.stream::<Event>("/events").await;
    let client = controller.client().with_headers([(&"last-event-id".to_owned(), &all[1].id.to_string())]);
    let mut resumed = client.events::<Event>("/events?app_id=c").await.unwrap();
    for expected in ["a", "b", "c"] {
        assert_eq!(name(&past.next().await), expected);
    }
    assert_eq!(name(&newest.next().await), "c");
    use futures_util::StreamExt as _;
    assert_eq!(name(&resumed.next().await.unwrap().unwrap()), "c");
    controller.app("d").await;
    for stream in [&mut past, &mut newest, &mut now] {
        assert_eq!(name(&stream.next().await), "d");
    }
    let authorization = authorization(KEY);
    let headers = [("authorization", &*authorization), ("last-event-id", "x")];
    controller.raw(Method::GET, "/events", &headers, "").await.error(400, "Last-Event-Id is invalid");
}

/// W9: transactions that end in another order than they began must not hide events from those who resume.
#[tokio::test]
async fn w9_ids_become_visible_in_their_order() {
    let controller = Controller::start().await;
    controller.app("first").await;
    let mut stream = controller.stream::<Event>("/events?past=true").await;
    let first = stream.next().await;
    let insert = "INSERT INTO events (object_type, object_id, data) VALUES ('key', 'slow', '{}')";
    let mut slow = controller.database.connect().await;
    slow.execute("BEGIN").await.unwrap();
    slow.execute(insert).await.unwrap();
    // This one is ready earlier but gets its id, and is seen, later.
    let late = tokio::spawn({
        let client = controller.client();
        async move { client.send_json::<_, Value>(Method::POST, "/apps", &json!({ "name": "late" })).await }
    });
    let mut watcher = controller.database.connect().await;
    let waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)";
    let deadline = std::time::Instant::now() + flynn_patience::seconds(30);
    while !sqlx::query_scalar::<_, bool>(waiting).fetch_one(&mut watcher).await.unwrap() {
        assert!(std::time::Instant::now() < deadline, "the second writer does not wait for the first one");
        tokio::task::yield_now().await;
    }
    slow.execute("COMMIT").await.unwrap();
    late.await.unwrap().unwrap();
    let (second, third) = (stream.next().await, stream.next().await);
    assert_eq!((second.object_id.as_str(), third.object_type), ("slow", Some(EventType::App)));
    assert!(first.id < second.id && second.id < third.id);
}

#[tokio::test]
async fn s10_a_stream_survives_the_loss_of_all_connections_without_a_gap() {
    let controller = Controller::start().await;
    controller.app("before").await;
    let mut stream = controller.stream::<Event>("/events").await;
    controller.database.cut_connections().await;
    for name in ["a", "b", "c"] {
        controller.app(name).await;
    }
    for expected in ["a", "b", "c"] {
        assert_eq!(data(&stream.next().await)["name"], expected);
    }
}

#[tokio::test]
async fn s9_a_reader_that_does_not_read_is_cut_off_and_others_go_on() {
    let controller = Controller::start().await;
    controller.app("first").await;
    let mut slow = open_with_small_buffer(&controller).await;
    let mut reader = controller.stream::<Event>("/events?object_id=5000").await;
    let mut sql = controller.database.connect().await;
    // More than the buffer and that of the server's socket hold together.
    let many = "INSERT INTO events (object_type, object_id, data)
        SELECT 'key', n::text, to_jsonb(repeat('x', 4000)) FROM generate_series(1, 5000) n";
    sql.execute(many).await.unwrap();
    // What is told to one was told to all.
    assert_eq!(reader.next().await.object_id, "5000");
    let mut received = Vec::new();
    let ended = async { while tokio::io::AsyncReadExt::read_buf(&mut slow, &mut received).await.unwrap() > 0 {} };
    let ended = tokio::time::timeout(flynn_patience::seconds(60), ended).await;
    let (length, end) = (received.len(), String::from_utf8_lossy(&received[received.len().saturating_sub(200)..]));
    assert!(ended.is_ok(), "the stream goes on after {length} bytes: {end}");
    assert!(end.contains("event: error\ndata: event stream buffer overflow\n\n"), "{end}");
}

/// A stream whose client takes little before it reads.
async fn open_with_small_buffer(controller: &Controller) -> tokio::net::TcpStream {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(200 << 10).unwrap();
    let address = controller.url.strip_prefix("http://").unwrap();
    let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
    let authorization = authorization(KEY);
    let request = format!(
        "GET /events HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\nauthorization: {authorization}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    // The answer's head: from then on events come.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    stream
}
