//! Ranges and conditions.

use crate::rig::{Blobstore, etag, random};

#[tokio::test]
async fn b11_ranges_are_parts_of_the_content() {
    let blobstore = Blobstore::start().await;
    let content = random(600_000);
    blobstore.put("/f", content.clone(), &[("content-type", "text/x")]).await;
    for (range, expected, told) in [
        ("bytes=0-99", &content[..100], "bytes 0-99/600000"),
        ("bytes=262100-262200", &content[262_100..262_201], "bytes 262100-262200/600000"),
        ("bytes=100-", &content[100..], "bytes 100-599999/600000"),
        ("bytes=-7", &content[599_993..], "bytes 599993-599999/600000"),
    ] {
        let answer = blobstore.get_with("/f", &[("range", range)]).await;
        assert_eq!((answer.status, answer.header("content-range")), (206, told));
        assert_eq!(answer.header("content-length"), expected.len().to_string());
        assert!(answer.body == expected && answer.header("content-type") == "text/x", "{range}");
    }
    let answer = blobstore.get_with("/f", &[("range", "bytes=600000-")]).await;
    assert_eq!((answer.status, answer.header("content-range")), (416, "bytes */600000"));
    let other = [("range", "bytes=0-9"), ("if-range", "\"other\"")];
    assert_eq!(blobstore.get_with("/f", &other).await.body, content);
    let same = etag(&content);
    let same = [("range", "bytes=0-9"), ("if-range", &*same)];
    assert_eq!(blobstore.get_with("/f", &same).await.body, content[..10]);
}

#[tokio::test]
async fn several_ranges_are_a_multipart_body() {
    let blobstore = Blobstore::start().await;
    blobstore.put("/f", "0123456789", &[("content-type", "text/x")]).await;
    let answer = blobstore.get_with("/f", &[("range", "bytes=0-1,8-")]).await;
    let boundary = answer.header("content-type").strip_prefix("multipart/byteranges; boundary=").expect("multipart");
    let part = |range: &str, text: &str| {
        format!("--{boundary}\r\nContent-Range: bytes {range}/10\r\nContent-Type: text/x\r\n\r\n{text}\r\n")
    };
    assert_eq!(answer.text(), format!("{}{}--{boundary}--\r\n", part("0-1", "01"), part("8-9", "89")));
    assert_eq!((answer.status, answer.header("content-length")), (206, &*answer.body.len().to_string()));
}

#[tokio::test]
async fn conditions_are_answered_without_a_body() {
    let blobstore = Blobstore::start().await;
    blobstore.put("/f", "x", &[]).await;
    let modified = blobstore.head("/f").await.header("last-modified").to_owned();
    for (name, value, status) in [
        ("if-modified-since", &*modified, 304),
        ("if-modified-since", "Thu, 01 Jan 1970 00:00:00 GMT", 200),
        ("if-unmodified-since", "Thu, 01 Jan 1970 00:00:00 GMT", 412),
        ("if-match", "\"other\"", 412),
        ("if-match", "*", 200),
        ("if-none-match", "*", 304),
    ] {
        let answer = blobstore.get_with("/f", &[(name, value)]).await;
        assert_eq!((answer.status, answer.text()), (status, if status == 200 { "x" } else { "" }), "{name}: {value}");
    }
}
