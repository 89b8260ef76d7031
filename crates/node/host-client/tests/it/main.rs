//! The client against servers that say what a test wants.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use flynn_host_client::{AttachError, AttachReceiver, Client};
use flynn_http::{ServerOptions, serve};
use flynn_types::host::attach::{FLAG_STDOUT, Frame};
use flynn_types::host::{AttachRequest, Command, Job, PullCoordinate, SinkInfo, Webhook};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

fn limit() -> Duration {
    flynn_patience::seconds(20)
}

async fn start(router: Router) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(serve(listener, router, CancellationToken::new(), ServerOptions::default()));
    Client::new(&base, Some("key")).unwrap()
}

#[tokio::test]
async fn every_call_asks_for_its_endpoint_and_ids_stay_in_their_segment() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let record = {
        let asked = Arc::clone(&asked);
        move |request: Request| {
            let key = request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
            assert_eq!(key.as_deref(), Some("Basic OmtleQ=="));
            asked.lock().unwrap().push(format!("{} {}", request.method(), request.uri()));
            async { axum::Json(serde_json::json!({})) }
        }
    };
    let client = start(Router::new().fallback(record)).await;
    let job = |id: &str| Job { id: id.into(), ..Job::default() };
    let id = "a/b";
    let sink = SinkInfo { id: id.into(), ..SinkInfo::default() };
    let (webhook, from, command) = (Webhook::default(), PullCoordinate::default(), Command::default());
    // The answers are no lists and no streams; only what was asked counts here.
    let _ = client.jobs(true).await;
    let _ = client.jobs(false).await;
    let _ = client.job("../status").await;
    let _ = client.add_job(&job(id)).await;
    let _ = client.add_job_even_draining(&job("j")).await;
    let _ = client.stop_job(id).await;
    let _ = client.signal_job(id, 9).await;
    let _ = client.deregister_job(id).await;
    let _ = client.job_stats(id).await;
    let _ = client.jobs_stats().await;
    let _ = client.stats().await;
    let _ = client.status().await;
    let _ = client.events(Some("j?x")).await;
    let _ = client.set_tags(&BTreeMap::new()).await;
    let _ = client.check_resources(&[]).await;
    let _ = client.drain("why").await;
    let _ = client.undrain().await;
    let _ = client.update(&command).await;
    let _ = client.sinks().await;
    let _ = client.add_sink(&sink).await;
    let _ = client.remove_sink(id).await;
    let _ = client.volumes().await;
    let _ = client.volume(id).await;
    let _ = client.create_volume("default", None).await;
    let _ = client.destroy_volume(id).await;
    let _ = client.snapshot_volume(id).await;
    let _ = client.pull_snapshot(id, &from).await;
    let _ = client.send_snapshot(id, &[]).await;
    let _ = client.collect_garbage().await;
    let _ = client.webhooks().await;
    let _ = client.add_webhook(&webhook).await;
    let _ = client.remove_webhook(id).await;
    let wanted = [
        "GET /host/jobs?active=true",
        "GET /host/jobs",
        "GET /host/jobs/..%2Fstatus",
        "PUT /host/jobs/a%2Fb",
        "PUT /host/jobs/j?allow_draining=true",
        "DELETE /host/jobs/a%2Fb",
        "PUT /host/jobs/a%2Fb/signal/9",
        "PUT /host/jobs/a%2Fb/discoverd-deregister",
        "GET /host/jobs/a%2Fb/stats",
        "GET /host/jobs-stats",
        "GET /host/stats",
        "GET /host/status",
        "GET /host/jobs/j%3Fx",
        "POST /host/tags",
        "POST /host/resource-check",
        "PUT /host/drain",
        "DELETE /host/drain",
        "POST /host/update",
        "GET /sinks",
        "PUT /sinks/a%2Fb",
        "DELETE /sinks/a%2Fb",
        "GET /storage/volumes",
        "GET /storage/volumes/a%2Fb",
        "POST /storage/providers/default/volumes",
        "DELETE /storage/volumes/a%2Fb",
        "PUT /storage/volumes/a%2Fb/snapshot",
        "POST /storage/volumes/a%2Fb/pull_snapshot",
        "GET /storage/volumes/a%2Fb/send",
        "POST /storage/gc",
        "GET /host/webhooks",
        "POST /host/webhooks",
        "DELETE /host/webhooks/a%2Fb",
    ];
    assert_eq!(*asked.lock().unwrap(), wanted);
    assert!(Client::new("10.0.0.1:1113", None).is_err());
}

/// A host that attaches: sends `pieces` one write each, then echoes the first bytes it gets as standard output and ends.
fn attaching(pieces: Vec<Vec<u8>>, echoes: bool) -> Router {
    let attach = move |mut request: Request| {
        let pieces = pieces.clone();
        async move {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.unwrap());
                for piece in pieces {
                    stream.write_all(&piece).await.unwrap();
                    stream.flush().await.unwrap();
                    tokio::task::yield_now().await;
                }
                if echoes {
                    let mut bytes = vec![0; 64];
                    let n = stream.read(&mut bytes).await.unwrap();
                    let payload = bytes[..n].to_vec();
                    stream.write_all(&Frame::Data { stream: 1, payload }.encode()).await.unwrap();
                }
                stream.shutdown().await.unwrap();
            });
            let headers = [("connection", "upgrade"), ("upgrade", "flynn-attach/0")];
            (http::StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
        }
    };
    Router::new().route("/attach", post(attach))
}

fn request() -> AttachRequest {
    AttachRequest { job_id: "host1-j".into(), flags: FLAG_STDOUT, height: 0, width: 0 }
}

async fn next(receiver: &mut AttachReceiver) -> Result<Option<Frame>, AttachError> {
    tokio::time::timeout(limit(), receiver.next()).await.expect("no frame")
}

#[tokio::test]
async fn frames_arrive_however_the_bytes_are_cut_and_nothing_is_sent_before_the_host_is_attached() {
    let sent = Frame::Data { stream: 0, payload: b"hello".to_vec() };
    let data = Frame::Data { stream: 1, payload: b"line\n".to_vec() };
    let bytes = [Frame::Waiting.encode(), Frame::Success.encode(), data.encode()].concat();
    let pieces = bytes.iter().map(|byte| vec![*byte]).collect();
    let client = start(attaching(pieces, true)).await;
    let (mut sender, mut receiver) = client.attach(&request()).await.unwrap();
    let mut sending = {
        let sent = sent.clone();
        tokio::spawn(async move { sender.send(sent).await.map(|()| sender) })
    };
    assert_eq!(next(&mut receiver).await.unwrap(), Some(Frame::Waiting));
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut sending).await.is_err(), "sent too early");
    assert_eq!(next(&mut receiver).await.unwrap(), Some(Frame::Success));
    assert_eq!(next(&mut receiver).await.unwrap(), Some(data));
    let _sender = sending.await.unwrap().unwrap();
    assert_eq!(next(&mut receiver).await.unwrap(), Some(Frame::Data { stream: 1, payload: sent.encode() }));
    assert_eq!(next(&mut receiver).await.unwrap(), None);
}

#[tokio::test]
async fn attaching_to_an_existing_job_tells_why_it_is_not_possible() {
    let error = Frame::Error("host: job not running".into()).encode();
    for (first, text) in [
        (vec![Frame::Waiting.encode()], "cluster: attach would wait"),
        (vec![error], "host: job not running"),
        (vec![], "the host closed the connection before it attached to the job"),
        (vec![vec![3, 1, 0]], "the connection to the host broke: unexpected end of file"),
        (vec![vec![77]], "unknown attach frame type 77"),
    ] {
        let client = start(attaching(first, false)).await;
        let err = client.attach_existing(&request()).await.err().unwrap();
        assert_eq!(err.to_string(), text);
    }
    let client = start(attaching(vec![Frame::Success.encode()], false)).await;
    assert!(client.attach_existing(&request()).await.is_ok());
}

#[tokio::test]
async fn a_host_that_does_not_switch_protocols_is_an_error_with_its_words() {
    async fn refuse() -> Response {
        flynn_http::Failure(flynn_types::error::ApiError::unavailable("host is shutting down")).into_response()
    }
    let client = start(Router::new().route("/attach", post(refuse))).await;
    let err = client.attach(&request()).await.err().unwrap();
    assert_eq!((err.to_string().as_str(), err.is_retryable()), ("host is shutting down", true));
    let client = start(Router::new().route("/attach", post(|| async { "hello" }))).await;
    assert!(client.attach(&request()).await.is_err());
}
