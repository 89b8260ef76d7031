//! Clients that break off, come at once, are slow; a database that fails; an end in the middle.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use flynn_test_postgres::Database;
use http::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::rig::{Blobstore, etag, files_below, random, settings};

#[tokio::test]
async fn b13_a_client_that_breaks_off_leaves_the_old_content() {
    for blobstore in Blobstore::each().await {
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
        blobstore.wait_for_contents(1).await; // nothing of what was broken off is left
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b15_of_concurrent_puts_one_whole_content_stays() {
    for blobstore in Blobstore::each().await {
        let blobstore = Arc::new(blobstore);
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
            assert_eq!(blobstore.contents().await, 1);
        }
    }
}

#[tokio::test]
async fn a_reader_gets_the_content_that_it_began_with() {
    for blobstore in Blobstore::each().await {
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
}

#[tokio::test]
async fn a_database_that_fails_is_an_error_and_is_used_again_afterwards() {
    let blobstore = Blobstore::start_on(Database::empty().await).await;
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
    for blobstore in Blobstore::each().await {
        let content = random(1_000_000);
        blobstore.put("/f", content.clone(), &[("content-type", "a/b")]).await;
        let blobstore = blobstore.restart().await;
        let answer = blobstore.get("/f").await;
        assert!(answer.body == content && answer.header("content-type") == "a/b");
    }
}

#[tokio::test]
async fn two_may_start_at_once_on_an_empty_database() {
    let database = Database::empty().await;
    let both = tokio::join!(Blobstore::start_on(database.clone()), Blobstore::start_on(database));
    both.0.put("/f", "x", &[]).await;
    assert_eq!(both.1.get("/f").await.text(), "x");
}

/// A small file system, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Self {
        use rustix::mount::{MountFlags, mount};
        let folder = tempfile::tempdir().unwrap();
        mount("tmpfs", folder.path(), "tmpfs", MountFlags::empty(), Some(c"size=4m")).unwrap();
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_refuses_new_contents_and_keeps_the_old_ones() {
    let disk = SmallDisk::mount();
    let blobstore = Blobstore::start_in(disk.0.path()).await;
    blobstore.put("/f", "old", &[]).await;
    let large = Bytes::from(random(6_000_000));
    let answer = blobstore.send(Method::PUT, "/f", &[], Body::from(large)).await;
    assert_eq!((answer.status, answer.text()), (500, "Internal Server Error"));
    assert_eq!(blobstore.get("/f").await.text(), "old");
    assert_eq!(files_below(disk.0.path()), 1, "what did not fit is gone");
    let fits = random(3_000_000);
    blobstore.put("/f", fits.clone(), &[]).await;
    assert!(blobstore.get("/f").await.body == fits);
}

#[tokio::test]
async fn contents_stay_readable_where_they_are_when_the_default_changes() {
    let (database, folder) = (Database::empty().await, tempfile::tempdir().unwrap());
    let before = Blobstore::start_with(database.clone(), settings(folder.path(), "local")).await;
    let after = Blobstore::start_with(database.clone(), settings(folder.path(), "postgres")).await;
    before.put("/local", "in the folder", &[]).await;
    after.put("/postgres", "in the database", &[]).await;
    for blobstore in [&before, &after] {
        assert_eq!(blobstore.get("/local").await.text(), "in the folder");
        assert_eq!(blobstore.get("/postgres").await.text(), "in the database");
    }
    before.put("/copy", "", &[("blobstore-copy-from", "/postgres")]).await;
    after.put("/local", "!", &[("blobstore-offset", "13")]).await;
    assert_eq!(before.get("/local").await.text(), "in the folder!");
    assert_eq!(files_below(folder.path()), 1, "a copy is where its source is");
    // Replaced across backends: the old content goes.
    after.put("/local", "moved", &[]).await;
    assert_eq!((before.get("/local").await.text(), files_below(folder.path())), ("moved", 0));
    // A process without the folder has the names, but not the contents.
    before.put("/only", "x", &[]).await;
    let without = Blobstore::start_on(database).await;
    assert_eq!((without.head("/only").await.status, without.get("/only").await.status), (200, 500));
    assert_eq!(without.delete("/only").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn b3_of_two_that_append_at_the_same_place_one_does() {
    for blobstore in Blobstore::each().await {
        blobstore.put("/f", "begin", &[]).await;
        let append = async |text: &'static str| {
            // Both have looked at the file before either has ended.
            let pieces = futures_util::stream::iter([
                Ok::<_, std::io::Error>(vec![b'.'; 300_000].into()),
                Ok(Bytes::from(text)),
            ]);
            blobstore.send(Method::PUT, "/f", &[("blobstore-offset", "5")], Body::from_stream(pieces)).await.status
        };
        let mut statuses = tokio::join!(append("one"), append("two"));
        if statuses.0 > statuses.1 {
            std::mem::swap(&mut statuses.0, &mut statuses.1);
        }
        assert_eq!(statuses, (200, 500));
        let answer = blobstore.get("/f").await;
        assert_eq!((answer.body.len(), answer.header("etag")), (300_008, &*etag(&answer.body)));
        blobstore.wait_for_contents(1).await;
    }
}
