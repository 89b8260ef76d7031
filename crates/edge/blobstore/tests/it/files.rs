//! Files come, change and go.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::Method;

use crate::rig::{Blobstore, etag, random};

#[tokio::test]
async fn b1_b14_listing_is_by_one_path_segment() {
    let blobstore = Blobstore::start().await;
    let none: [&str; 0] = [];
    assert_eq!(blobstore.list("/").await, none);
    for name in ["/foo.txt", "/bar.txt", "/baz.txt"] {
        blobstore.put(name, "x", &[]).await;
    }
    assert_eq!(blobstore.list("/").await, ["/bar.txt", "/baz.txt", "/foo.txt"]);
    assert_eq!(blobstore.get("/").await.text(), "[\"/bar.txt\",\"/baz.txt\",\"/foo.txt\"]\n");
    assert_eq!(blobstore.list("/foo.txt").await, none);
    assert_eq!(blobstore.delete("/foo.txt").await.status, 200);
    for name in ["/dir1/a", "/dir1/b", "/dir2/c", "/dir2/deep/er"] {
        blobstore.put(name, "x", &[]).await;
    }
    assert_eq!(blobstore.list("/").await, ["/bar.txt", "/baz.txt", "/dir1/", "/dir2/"]);
    assert_eq!(blobstore.list("/dir1").await, ["/dir1/a", "/dir1/b"]);
    assert_eq!(blobstore.list("/dir2/").await, ["/dir2/c", "/dir2/deep/"]);
    assert_eq!(blobstore.list("dir2//deep").await, ["/dir2/deep/er"]);
    assert_eq!(blobstore.list("/di").await, none);
    assert_eq!(blobstore.list("/unknown").await, none);
    blobstore.delete("/dir1/a").await;
    assert_eq!(blobstore.list("/dir1").await, ["/dir1/b"]);
    blobstore.delete("/dir1").await;
    assert_eq!(blobstore.list("/").await, ["/bar.txt", "/baz.txt", "/dir2/"]);
}

#[tokio::test]
async fn b2_deleting_is_precise() {
    let blobstore = Blobstore::start().await;
    for name in ["/dir/foo", "/dir/foo.txt", "/dir/bar.txt", "/dir_x", "/dir%25"] {
        blobstore.put(name, "x", &[]).await;
    }
    blobstore.delete("/dir/foo").await;
    assert_eq!(blobstore.list("/dir").await, ["/dir/bar.txt", "/dir/foo.txt"]);
    blobstore.delete("/dir").await;
    assert_eq!(blobstore.list("/").await, ["/dir%", "/dir_x"]);
    let none = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM pg_largeobject_metadata");
    let objects = none.fetch_one(&mut blobstore.database.connect().await).await.unwrap();
    assert_eq!(objects, 2, "large objects go with their names");
}

#[tokio::test]
async fn b3_appending_goes_on_where_the_file_ends() {
    let blobstore = Blobstore::start().await;
    blobstore.put("/f", "foo", &[("content-type", "text/plain")]).await;
    blobstore.put("/f", "bar", &[("blobstore-offset", "3")]).await;
    assert_eq!(blobstore.get("/f").await.text(), "foobar");
    assert_eq!(blobstore.head("/f").await.header("etag"), etag(b"foobar"));
    blobstore.put("/f", "baz", &[("blobstore-offset", "6")]).await;
    let answer = blobstore.get("/f").await;
    assert_eq!((answer.text(), answer.header("etag")), ("foobarbaz", &*etag(b"foobarbaz")));
    assert_eq!(answer.header("content-type"), "text/plain");
    for offset in ["3", "10", "-", "x"] {
        let headers = [("blobstore-offset", offset)];
        let answer = blobstore.send(Method::PUT, "/f", &headers, Body::from("!")).await;
        assert_eq!((answer.status, answer.text()), (500, "Internal Server Error"), "{offset}");
    }
    let answer = blobstore.send(Method::PUT, "/none", &[("blobstore-offset", "1")], Body::from("!")).await;
    assert_eq!(answer.status, 404);
    // Offset 0 begins anew. Across the borders of pieces, too.
    let content = random(700_000);
    blobstore.put("/f", content[..300_001].to_vec(), &[("blobstore-offset", "0")]).await;
    blobstore.put("/f", content[300_001..].to_vec(), &[("blobstore-offset", "300001")]).await;
    let answer = blobstore.get("/f").await;
    assert!(answer.body == content && answer.header("etag") == etag(&content));
}

/// B4 to B7 for one of the clients.
async fn life_of_a_file(blobstore: &Blobstore, number: usize) {
    let (path, copy) = (format!("/client/{number}"), format!("/copy/{number}"));
    for missing in [blobstore.get(&path).await, blobstore.head(&path).await] {
        assert_eq!(missing.status, 404);
    }
    assert_eq!(blobstore.get(&path).await.text(), "NotFound");
    let content = Bytes::from(random(10_500_000));
    blobstore.put(&path, content.clone(), &[("content-type", "text/plain")]).await;
    let tag = etag(&content);
    let answer = blobstore.get(&path).await;
    assert!(answer.status == 200 && answer.body == content);
    let head = blobstore.head(&path).await;
    let told = (head.header("content-length"), head.header("content-type"), head.header("etag"));
    assert_eq!(told, ("10500000", "text/plain", &*tag));
    assert_eq!(head.header("accept-ranges"), "bytes");
    assert!(head.header("last-modified").ends_with(" GMT"), "{head:?}");
    let answer = blobstore.get_with(&path, &[("if-none-match", &tag)]).await;
    assert!(answer.status == 304 && answer.body.is_empty());
    // B5
    blobstore.put(&copy, "ignored", &[("blobstore-copy-from", &path)]).await;
    let answer = blobstore.get(&copy).await;
    assert!(answer.body == content && answer.header("etag") == tag && answer.header("content-type") == "text/plain");
    // B6
    let small = Bytes::from(random(64));
    blobstore.put(&path, small.clone(), &[("content-type", "application/x")]).await;
    let readers = futures_util::future::join_all((0..5).map(|_| blobstore.get(&path)));
    for answer in readers.await {
        assert!(answer.body == small && answer.header("content-length") == "64");
        assert_eq!(answer.header("content-type"), "application/x");
    }
    // B7
    assert_eq!(blobstore.delete(&path).await.status, 200);
    assert_eq!((blobstore.get(&path).await.status, blobstore.head(&path).await.status), (404, 404));
    assert!(blobstore.get(&copy).await.body == content, "a copy is its own content");
}

#[tokio::test(flavor = "multi_thread")]
async fn b4_to_b7_five_clients_at_once_store_copy_replace_and_delete() {
    let blobstore = Arc::new(Blobstore::start().await);
    let clients = (0..5).map(|number| {
        let blobstore = Arc::clone(&blobstore);
        tokio::spawn(async move { life_of_a_file(&blobstore, number).await })
    });
    for client in futures_util::future::join_all(clients).await {
        client.unwrap();
    }
}

#[tokio::test]
async fn b5_copies_need_a_source_and_a_free_name() {
    let blobstore = Blobstore::start().await;
    let copy = async |from: &str, to: &str| {
        blobstore.send(Method::PUT, to, &[("blobstore-copy-from", from)], Body::empty()).await.status
    };
    assert_eq!(copy("/none", "/b").await, 404);
    blobstore.put("/a", "x", &[]).await;
    assert_eq!(copy("//a/", "/b").await, 200);
    assert_eq!(copy("/a", "/b").await, 500);
    assert_eq!(blobstore.get("/b").await.text(), "x");
}

#[tokio::test]
async fn b10_b12_other_requests_are_answered_as_the_table_says() {
    let blobstore = Blobstore::start().await;
    assert_eq!(blobstore.delete("/missing").await.status, 200);
    for (method, path, status) in [
        (Method::DELETE, "/", 404),
        (Method::PUT, "/", 404),
        (Method::PUT, "/a/..", 404),
        (Method::HEAD, "/", 200),
        (Method::POST, "/x", 405),
        (Method::GET, "/%ff", 400),
    ] {
        let answer = blobstore.send(method.clone(), path, &[], Body::empty()).await;
        assert_eq!(answer.status, status, "{method} {path}");
        assert!(answer.body.is_empty() || status == 400);
    }
    blobstore.put("/untyped", "", &[]).await;
    let answer = blobstore.get("/untyped?query=is&ignored").await;
    assert_eq!((answer.status, answer.header("content-type"), answer.header("content-length")), (200, "", "0"));
    assert_eq!(answer.header("etag"), etag(b""));
    blobstore.put("/a//b/../c/", "x", &[]).await;
    assert_eq!(blobstore.get("/a/c").await.text(), "x");
    let status = blobstore.get("/.well-known/status").await;
    assert_eq!((status.status, status.header("content-type")), (200, "application/json"));
    assert!(status.text().contains(r#""status": "healthy""#) && status.text().contains(r#""version": "v1""#));
}
