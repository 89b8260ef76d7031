//! Contents in a bucket of S3 (spec build-and-deploy sections 15.5 and 15.6).

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use flynn_blobstore::Settings;
use flynn_test_buckets::S3;
use flynn_test_postgres::Database;
use futures_util::future::join_all;
use http::Method;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::rig::{Answer, Blobstore, etag, random, variables};
use crate::wire::Wire;

/// A bucket of its own for each test.
struct Bucket {
    name: &'static str,
    server: &'static S3,
}

impl Bucket {
    async fn make(name: &'static str) -> Self {
        let server = tokio::task::spawn_blocking(S3::shared).await.unwrap();
        server.make_bucket(name);
        Self { name, server }
    }

    fn settings(&self, default: &str) -> Settings {
        self.settings_at(&self.server.endpoint(), default)
    }

    /// As the production guide has it.
    fn settings_at(&self, endpoint: &str, default: &str) -> Settings {
        variables(&[
            ("BACKEND", "s3"),
            ("S3_BUCKET", self.name),
            ("S3_REGION", "eu-west-1"),
            ("S3_ENDPOINT", endpoint),
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("DEFAULT_BACKEND", default),
        ])
    }

    async fn blobstore(&self) -> Blobstore {
        Blobstore::start_with(Database::empty().await, self.settings("s3")).await
    }

    /// Waits until there are so many objects and no upload is unfinished.
    async fn wait_for_objects(&self, count: usize) {
        let there = || (self.server.objects(self.name), self.server.uploads(self.name));
        let deadline = tokio::time::Instant::now() + flynn_patience::seconds(60);
        while there() != (count, 0) {
            let last = there();
            assert!(tokio::time::Instant::now() < deadline, "waited for {count} objects, there are {last:?}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

fn content_is(answer: &Answer, content: &[u8]) {
    assert_eq!((answer.status, answer.body.len()), (200, content.len()));
    assert!(answer.body == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn b8_bi4_clients_are_sent_to_the_store_with_an_address_for_that_content() {
    let bucket = Bucket::make("addresses").await;
    let blobstore = bucket.blobstore().await;
    blobstore.put("/f", "0123456789", &[("content-type", "text/x")]).await;
    let answer = blobstore.get("/f").await;
    assert_eq!((answer.status, answer.text()), (302, ""));
    let first = answer.header("location").to_owned();
    assert!(first.starts_with(&format!("{}/addresses/", bucket.server.endpoint())), "{first}");
    assert!(first.contains("X-Amz-Expires=600"), "{first}");
    let head = blobstore.head("/f").await;
    assert_eq!((head.status, head.header("content-length"), head.header("content-type")), (200, "10", "text/x"));
    assert_eq!(head.header("etag"), etag(b"0123456789"));
    let answer = blobstore.follow("/f", &[]).await;
    assert_eq!((answer.text(), answer.header("content-type")), ("0123456789", "text/x"));
    let answer = blobstore.follow("/f", &[("range", "bytes=2-4")]).await;
    assert_eq!((answer.status, answer.text(), answer.header("content-range")), (206, "234", "bytes 2-4/10"));
    // Replaced: the old address leads nowhere.
    assert_eq!(blobstore.fetch(&first, &[]).await.text(), "0123456789");
    blobstore.put("/f", "new", &[]).await;
    assert_eq!(blobstore.fetch(&first, &[]).await.status, 404);
    assert_eq!(blobstore.follow("/f", &[]).await.text(), "new");
    blobstore.delete("/f").await;
    assert_eq!((blobstore.get("/f").await.status, blobstore.head("/f").await.status), (404, 404));
    bucket.wait_for_objects(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b3_to_b7_files_of_all_sizes_come_change_and_go() {
    let bucket = Bucket::make("files").await;
    let blobstore = Arc::new(bucket.blobstore().await);
    // Around the size of a part, and none at all.
    let part = 8 * 1024 * 1024;
    let clients = [0, 1, part - 1, part, 2 * part + 1].map(|size| {
        let blobstore = Arc::clone(&blobstore);
        tokio::spawn(async move {
            let (path, content) = (format!("/size/{size}"), Bytes::from(random(size)));
            blobstore.put(&path, content.clone(), &[("content-type", "text/plain")]).await;
            content_is(&blobstore.follow(&path, &[]).await, &content);
            assert_eq!(blobstore.head(&path).await.header("etag"), etag(&content));
            let copy = format!("/copy/{size}");
            blobstore.put(&copy, "", &[("blobstore-copy-from", &path)]).await;
            if size > 0 {
                let more = random(300_000);
                blobstore.put(&path, more.clone(), &[("blobstore-offset", &size.to_string())]).await;
                let all = [&content[..], &more].concat();
                content_is(&blobstore.follow(&path, &[]).await, &all);
                assert_eq!(blobstore.head(&path).await.header("etag"), etag(&all));
            }
            let answer = blobstore.follow(&copy, &[]).await;
            content_is(&answer, &content);
            assert_eq!(answer.header("content-type"), "text/plain");
        })
    });
    for client in join_all(clients).await {
        client.unwrap();
    }
    let answer = blobstore.send(Method::PUT, "/size/1", &[("blobstore-offset", "7")], Body::from("x")).await;
    assert_eq!(answer.status, 500);
    bucket.wait_for_objects(10).await;
    blobstore.delete("/copy").await;
    bucket.wait_for_objects(5).await;
    blobstore.delete("/size").await;
    bucket.wait_for_objects(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b13_b15_broken_and_concurrent_uploads_leave_one_whole_content() {
    let bucket = Bucket::make("broken").await;
    let blobstore = Arc::new(bucket.blobstore().await);
    blobstore.put("/f", "old", &[]).await;
    for head in ["content-length: 50000000\r\n\r\n", "transfer-encoding: chunked\r\n\r\n2faf080\r\n"] {
        let mut stream = TcpStream::connect(blobstore.address).await.unwrap();
        stream.write_all(format!("PUT /f HTTP/1.1\r\nhost: x\r\n{head}").as_bytes()).await.unwrap();
        stream.write_all(&random(20_000_000)).await.unwrap();
        drop(stream);
        assert_eq!(blobstore.follow("/f", &[]).await.text(), "old");
    }
    bucket.wait_for_objects(1).await; // nothing of what was broken off is left
    let contents: Vec<Bytes> = (0..4).map(|_| Bytes::from(random(9_000_000))).collect();
    let puts = contents.iter().map(|content| {
        let (blobstore, content) = (Arc::clone(&blobstore), content.clone());
        tokio::spawn(async move { blobstore.put("/f", content, &[]).await })
    });
    for put in join_all(puts).await {
        put.unwrap();
    }
    let answer = blobstore.follow("/f", &[]).await;
    assert!(contents.contains(&answer.body));
    assert_eq!(blobstore.head("/f").await.header("etag"), etag(&answer.body));
    bucket.wait_for_objects(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_for_a_moment_is_asked_again() {
    let bucket = Bucket::make("moments").await;
    let wire = Wire::to(bucket.server.port()).await;
    let settings = bucket.settings_at(&wire.endpoint(), "s3");
    let blobstore = Blobstore::start_with(Database::empty().await, settings).await;
    blobstore.put("/small", "x", &[]).await;
    let content = Bytes::from(random(60_000_000));
    let (sender, body) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let stream = futures_util::stream::unfold(body, |mut body| async { body.recv().await.map(|item| (item, body)) });
    let upload = blobstore.send(Method::PUT, "/f", &[], Body::from_stream(stream));
    let sending = async {
        for (number, piece) in content.chunks(1_000_000).enumerate() {
            sender.send(Ok(Bytes::copy_from_slice(piece))).await.unwrap();
            if number % 20 == 19 {
                wire.cut_and_refuse(2);
            }
        }
        drop(sender);
    };
    let (answer, ()) = tokio::join!(upload, sending);
    assert_eq!((answer.status, answer.text()), (200, ""));
    content_is(&blobstore.follow("/f", &[]).await, &content);
    wire.cut_and_refuse(2);
    blobstore.put("/f", "!", &[("blobstore-offset", "60000000")]).await;
    assert_eq!(blobstore.head("/f").await.header("etag"), etag(&[&content[..], b"!"].concat()));
    bucket.wait_for_objects(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_missing_is_told_and_for_minio_made() {
    let bucket = Bucket::make("lost").await;
    let blobstore = bucket.blobstore().await;
    assert_eq!(blobstore.head("/f").await.status, 404); // it has begun to serve
    bucket.server.remove_bucket("lost");
    // In one request, and in parts.
    for size in [1, 8 * 1024 * 1024] {
        let answer = blobstore.send(Method::PUT, "/f", &[], Body::from(random(size))).await;
        assert_eq!((answer.status, answer.text()), (500, "Internal Server Error"));
    }
    assert_eq!(blobstore.get("/f").await.status, 404);
    let ended = Blobstore::start_with(Database::empty().await, bucket.settings("s3")).await.ended().await;
    assert!(ended.starts_with("use the bucket lost of the backend s3: is it there"), "{ended}");
    assert!(ended.contains("NoSuchBucket"), "{ended}");
    let minio = variables(&[
        ("BACKEND_M", &format!("backend=minio bucket=lost insecure=true endpoint=127.0.0.1:{}", bucket.server.port())),
        ("BACKEND_M_ACCESS_KEY_ID", "id"),
        ("BACKEND_M_SECRET_ACCESS_KEY", "secret"),
        ("DEFAULT_BACKEND", "m"),
    ]);
    let blobstore = Blobstore::start_with(Database::empty().await, minio).await;
    blobstore.put("/f", "x", &[]).await;
    assert_eq!(blobstore.follow("/f", &[]).await.text(), "x");
    bucket.wait_for_objects(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bi6_contents_stay_where_they_are_when_the_default_changes() {
    let bucket = Bucket::make("changes").await;
    let database = Database::empty().await;
    let before = Blobstore::start_with(database.clone(), bucket.settings("postgres")).await;
    let after = Blobstore::start_with(database.clone(), bucket.settings("s3")).await;
    before.put("/postgres", "in the database", &[]).await;
    after.put("/s3", "at the store", &[]).await;
    for blobstore in [&before, &after] {
        assert_eq!(blobstore.get("/postgres").await.text(), "in the database");
        assert_eq!(blobstore.follow("/s3", &[]).await.text(), "at the store");
    }
    before.put("/s3", "!", &[("blobstore-offset", "12")]).await;
    assert_eq!(after.follow("/s3", &[]).await.text(), "at the store!");
    bucket.wait_for_objects(1).await;
    before.put("/s3", "moved", &[]).await;
    assert_eq!(after.get("/s3").await.text(), "moved");
    bucket.wait_for_objects(0).await;
}
