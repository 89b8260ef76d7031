//! Clients that break off, come at once, are slow; a database that fails; an end in the middle.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::rig::{Blobstore, etag, random};

/// Large objects in the database.
async fn objects(blobstore: &Blobstore) -> i64 {
    let count = sqlx::query_scalar("SELECT count(*) FROM pg_largeobject_metadata");
    count.fetch_one(&mut blobstore.database.connect().await).await.unwrap()
}

#[tokio::test]
async fn b13_a_client_that_breaks_off_leaves_the_old_content() {
    let blobstore = Blobstore::start().await;
    blobstore.put("/f", "old", &[]).await;
    for head in ["content-length: 5000000\r\n\r\n", "transfer-encoding: chunked\r\n\r\n4c4b40\r\n"] {
        let mut stream = TcpStream::connect(blobstore.address).await.unwrap();
        stream.write_all(format!("PUT /f HTTP/1.1\r\nhost: x\r\n{head}").as_bytes()).await.unwrap();
        stream.write_all(&random(2_000_000)).await.unwrap();
        drop(stream);
        let answer = blobstore.get("/f").await;
        assert_eq!((answer.text(), answer.header("etag")), ("old", &*etag(b"old")));
    }
    blobstore.put("/f", "new", &[]).await;
    assert_eq!(blobstore.get("/f").await.text(), "new");
    let gone = async || {
        while objects(&blobstore).await != 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(flynn_patience::seconds(30), gone()).await.expect("nothing of what was broken off is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn b15_of_concurrent_puts_one_whole_content_stays() {
    let blobstore = Arc::new(Blobstore::start().await);
    for _ in 0..5 {
        let contents: Vec<Bytes> = (0..8).map(|_| Bytes::from(random(400_000))).collect();
        let puts = contents.iter().map(|content| {
            let (blobstore, content) = (Arc::clone(&blobstore), content.clone());
            tokio::spawn(async move { blobstore.put("/same", content, &[]).await })
        });
        for put in futures_util::future::join_all(puts).await {
            put.unwrap();
        }
        let answer = blobstore.get("/same").await;
        assert!(contents.contains(&answer.body) && answer.header("etag") == etag(&answer.body));
        assert_eq!(objects(&blobstore).await, 1);
    }
}

#[tokio::test]
async fn a_reader_gets_the_content_that_it_began_with() {
    let blobstore = Blobstore::start().await;
    let content = random(30_000_000);
    blobstore.put("/f", content.clone(), &[]).await;
    let mut stream = TcpStream::connect(blobstore.address).await.unwrap();
    stream.write_all(b"GET /f HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut begin = [0; 1000];
    stream.read_exact(&mut begin).await.unwrap();
    blobstore.put("/f", "new", &[]).await;
    blobstore.delete("/f").await;
    let mut rest = Vec::new();
    let reading = stream.read_to_end(&mut rest);
    tokio::time::timeout(flynn_patience::seconds(60), reading).await.unwrap().unwrap();
    let answer = [&begin[..], &rest].concat();
    let body = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert!(answer[body..] == content);
    assert_eq!(blobstore.get("/f").await.status, 404);
}

#[tokio::test]
async fn a_database_that_fails_is_an_error_and_is_used_again_afterwards() {
    let blobstore = Blobstore::start().await;
    blobstore.put("/f", "x", &[]).await;
    blobstore.database.cut_connections().await;
    assert_eq!(blobstore.get("/f").await.text(), "x");
    // In the middle of an upload.
    let (sender, body) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let stream = futures_util::stream::unfold(body, |mut body| async { body.recv().await.map(|item| (item, body)) });
    let upload = blobstore.send(Method::PUT, "/f", &[], Body::from_stream(stream));
    let cut = async {
        for _ in 0..20 {
            if sender.send(Ok(random(100_000).into())).await.is_err() {
                break;
            }
        }
        while objects(&blobstore).await < 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        blobstore.database.cut_connections().await;
        let _ = sender.send(Ok(random(600_000).into())).await; // refused when the server has answered already
        drop(sender);
    };
    let (answer, ()) = tokio::join!(upload, cut);
    assert_eq!((answer.status, answer.text()), (500, "Internal Server Error"));
    assert_eq!(blobstore.get("/f").await.text(), "x");
}

#[tokio::test]
async fn what_was_stored_is_there_after_a_restart() {
    let blobstore = Blobstore::start().await;
    let content = random(1_000_000);
    blobstore.put("/f", content.clone(), &[("content-type", "a/b")]).await;
    let database = blobstore.stop().await;
    let blobstore = Blobstore::start_on(database).await;
    let answer = blobstore.get("/f").await;
    assert!(answer.body == content && answer.header("content-type") == "a/b");
}

#[tokio::test]
async fn two_may_start_at_once_on_an_empty_database() {
    let database = flynn_test_postgres::Database::empty().await;
    let both = tokio::join!(Blobstore::start_on(database.clone()), Blobstore::start_on(database));
    both.0.put("/f", "x", &[]).await;
    assert_eq!(both.1.get("/f").await.text(), "x");
}
