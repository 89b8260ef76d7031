//! Layers over HTTP: what a job says when one cannot be had.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::routing::get;
use flynn_types::host::{JobStatus, Mountspec};
use tokio::net::TcpListener;

use crate::support::{Dir, TestHost, job, spec, squashfs};

/// Serves bytes at `/layer`, half of them at `/cut`, refuses at `/secret`, leads from `/moved` to `/layer`, and from `/circle`
/// nowhere.
async fn server(bytes: Vec<u8>) -> (String, Arc<AtomicUsize>) {
    let (bytes, count) = (Bytes::from(bytes), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&count);
    let (whole, half) = (bytes.clone(), bytes.slice(..bytes.len() / 2));
    let app = Router::new()
        .route(
            "/layer",
            get(move || {
                counter.fetch_add(1, Ordering::SeqCst);
                std::future::ready(Body::from(whole.clone()))
            }),
        )
        .route("/cut", get(move || std::future::ready(Body::from(half.clone()))))
        .route("/moved", get(|| std::future::ready((StatusCode::FOUND, [(LOCATION, "/layer")]))))
        .route("/circle", get(|| std::future::ready((StatusCode::FOUND, [(LOCATION, "/circle")]))))
        .route("/secret", get(|| std::future::ready(StatusCode::FORBIDDEN)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, count)
}

async fn failure(host: &TestHost, id: &str, layer: Mountspec) -> String {
    let mut failing = job(id);
    failing.mountspecs = vec![layer];
    host.client.add_job(&failing).await.unwrap();
    let ended = host.ended(id).await;
    assert_eq!(ended.status, JobStatus::Failed);
    ended.error.unwrap()
}

#[tokio::test]
async fn a_layer_that_is_not_what_was_promised_is_not_kept() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    let bytes = squashfs(&dir, &[("bin/sh", b"#!")]);
    let (base, _) = server(bytes.clone()).await;
    let url = format!("{base}/layer");
    let good = spec(&bytes, &url);
    let wrong_hash = spec(b"something else", &url);
    let hash = |algorithm: &str| [(algorithm.to_owned(), "00".to_owned())].into();
    let noise = vec![7; 8192];
    let (noise_base, _) = server(noise.clone()).await;
    let no_squashfs = spec(&noise, &format!("{noise_base}/layer"));
    for (n, (layer, start, part)) in [
        (
            Mountspec { size: good.size, ..wrong_hash },
            "error getting squashfs layer from http",
            "verify: expected sha512_256 hash",
        ),
        (
            Mountspec { url: format!("{base}/cut"), ..good.clone() },
            "error getting squashfs layer from http",
            "verify: data too short",
        ),
        (
            Mountspec { size: good.size + 1, ..good.clone() },
            "error getting squashfs layer from http",
            "verify: data too short",
        ),
        (
            Mountspec { size: 0, ..good.clone() },
            "error getting squashfs layer from http",
            "verify: invalid data size: 0",
        ),
        (
            Mountspec { hashes: hash("md5"), ..good.clone() },
            "error getting squashfs layer from http",
            "verify: no hashes provided",
        ),
        (no_squashfs, "error getting squashfs layer from http", "the data is no squashfs file system"),
        (Mountspec { url: String::new(), ..good.clone() }, "error getting squashfs layer", "missing URL"),
        (Mountspec { url: "gopher://x/y".into(), ..good.clone() }, "unknown layer URI scheme: gopher", ""),
        (Mountspec { url: format!("{base}/secret"), ..good.clone() }, "error getting squashfs layer from http", "403"),
        (Mountspec { url: format!("{base}/nothing"), ..good.clone() }, "error getting squashfs layer from http", "404"),
        (Mountspec { kind: "tar".into(), ..good.clone() }, "unknown mountspec type: \"tar\"", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let error = failure(&host, &format!("host1-{n}"), layer).await;
        assert!(error.starts_with(start) && error.contains(part), "{part}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
    assert!(host.volumes.list().is_empty(), "{:?}", host.volumes.list());
    host.leave().await;
}

#[tokio::test]
async fn a_layer_is_fetched_from_where_the_answer_leads() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    let bytes = squashfs(&dir, &[("bin/sh", b"#!")]);
    let (base, count) = server(bytes.clone()).await;
    let error = failure(&host, "host1-1", spec(&bytes, &format!("{base}/circle"))).await;
    assert!(error.contains("redirects"), "{error}");
    // It gets as far as its container, which this host cannot start.
    let error = failure(&host, "host1-2", spec(&bytes, &format!("{base}/moved"))).await;
    assert!(error.contains("/nonexistent/supervisor"), "{error}");
    assert_eq!(count.load(Ordering::SeqCst), 1);
    host.leave().await;
}

#[tokio::test]
async fn jobs_share_one_download_and_what_is_stored_needs_no_network() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    let bytes = squashfs(&dir, &[("bin/sh", b"#!")]);
    let (base, count) = server(bytes.clone()).await;
    let layer = spec(&bytes, &format!("{base}/layer"));
    // They get as far as their container, which this host cannot start.
    let both = tokio::join!(failure(&host, "host1-1", layer.clone()), failure(&host, "host1-2", layer.clone()));
    for error in [both.0, both.1] {
        assert!(error.contains("/nonexistent/supervisor"), "{error}");
    }
    let away = Mountspec { url: "http://127.0.0.1:9/layer".into(), ..layer };
    assert!(failure(&host, "host1-3", away).await.contains("/nonexistent/supervisor"));
    assert_eq!(count.load(Ordering::SeqCst), 1);
    for id in ["host1-1", "host1-2", "host1-3"] {
        host.job_when(id, |_| !dir.join("run/container").join(id).exists()).await;
    }
    assert!(dir.mounts().iter().all(|point| !point.starts_with(dir.join("run"))), "{:?}", dir.mounts());
    let removed = host.client.collect_garbage().await.unwrap();
    assert_eq!(removed.len(), 1);
    assert!(dir.mounts().is_empty(), "{:?}", dir.mounts());
    host.leave().await;
}
