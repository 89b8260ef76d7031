//! Event streams over time: their end, their resumption.

use axum::extract::State;
use axum::http::HeaderMap;
use flynn_http::{Followed, Item, sse_items};

use super::*;

#[tokio::test]
async fn shutdown_ends_event_streams_at_once_and_without_an_error() {
    let silent = || async { sse(futures_util::stream::pending::<Result<u8, String>>()) };
    let server = start(Router::new().route("/", get(silent))).await;
    let mut events = server.client.events::<u8>("/").await.unwrap();
    let begin = std::time::Instant::now();
    server.shutdown.cancel();
    assert!(events.next().await.is_none());
    server.task.await.unwrap().unwrap();
    assert!(begin.elapsed() < Duration::from_millis(900), "waited for the grace time");
}

#[tokio::test]
async fn a_followed_stream_resumes_after_the_last_event_it_saw() {
    /// Gives three events after the one asked for, then ends.
    async fn three(State(seen): State<mpsc::Sender<Option<String>>>, headers: HeaderMap) -> Response {
        let last = headers.get("last-event-id").map(|id| id.to_str().unwrap().to_owned());
        let from = last.as_ref().map_or(0, |id| id.parse::<u32>().unwrap() + 1);
        seen.send(last).await.unwrap();
        let items = (from..from + 3).map(|n| Ok::<_, String>(Item { id: Some(n.to_string()), data: n }));
        sse_items(futures_util::stream::iter(items))
    }
    let (seen, mut asked) = mpsc::channel(16);
    let server = start(Router::new().route("/", get(three)).with_state(seen)).await;
    let mut follow = server.client.follow::<u32>("/");
    let (mut items, mut opened) = (Vec::new(), 0);
    while items.len() < 8 {
        // Asked impatiently: a call that is given up loses nothing.
        match tokio::time::timeout(Duration::from_millis(1), follow.next()).await {
            Ok(Ok(Followed::Opened)) => opened += 1,
            Ok(Ok(Followed::Item(item))) => items.push(item),
            Ok(Err(err)) => panic!("{err}"),
            Err(_) => {}
        }
    }
    assert_eq!((items, opened), ((0..8).collect(), 3));
    assert_eq!([asked.recv().await.unwrap(), asked.recv().await.unwrap()], [None, Some("2".to_owned())]);
}

#[tokio::test]
async fn a_followed_stream_outlives_its_server_but_tells_of_errors_that_stay() {
    let one = || async {
        sse(futures_util::stream::iter([Ok(1)]).chain(futures_util::stream::pending::<Result<u8, String>>()))
    };
    let server = start(Router::new().route("/", get(one))).await;
    let mut follow = server.client.follow::<u8>("/");
    assert_eq!(follow.next().await.unwrap(), Followed::Opened);
    assert_eq!(follow.next().await.unwrap(), Followed::Item(1));
    server.shutdown.cancel();
    server.task.await.unwrap().unwrap();
    let again = tokio::spawn(async move { (follow.next().await, follow.next().await) });
    let listener = TcpListener::bind(server.address).await.unwrap();
    let _second = tokio::spawn(serve(listener, Router::new(), CancellationToken::new(), ServerOptions::default()));
    let (first, second) = tokio::time::timeout(flynn_patience::seconds(20), again).await.unwrap().unwrap();
    assert!(first.is_err_and(|err| err.is_not_found()));
    assert!(second.is_err_and(|err| err.is_not_found()));
}

#[tokio::test]
async fn an_answer_that_is_no_event_stream_is_an_error() {
    let server = start(Router::new().route("/", get(|| async { "hello" }))).await;
    assert!(matches!(server.client.events::<u8>("/").await.err(), Some(ClientError::Decode { .. })));
}
