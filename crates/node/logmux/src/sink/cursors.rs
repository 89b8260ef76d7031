//! Asking a log aggregator which message of this host it has last.

use std::collections::BTreeMap;
use std::io;

use flynn_types::host::SinkCursor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longest answer in bytes: a hundred thousand hosts.
const ANSWER_LEN: u64 = 16 << 20;

/// `GET /cursors` of the aggregator on `host`; `None` when it has no message of `host_id`. HTTP 1.0 keeps the answer
/// free of chunks.
pub(super) async fn cursor_of(host: &str, port: u16, host_id: &str) -> io::Result<Option<SinkCursor>> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let mut stream = TcpStream::connect((bare, port)).await?;
    let request = format!("GET /cursors HTTP/1.0\r\nHost: {host}\r\nAccept: application/json\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_LEN).read_to_end(&mut answer).await?;
    parse(&answer, host_id).map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, reason))
}

fn parse(answer: &[u8], host_id: &str) -> Result<Option<SinkCursor>, String> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or("answer without a header")?;
    let (head, body) = (String::from_utf8_lossy(&answer[..end]), &answer[end + 4..]);
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(format!("cursors were refused: {status:?}"));
    }
    let cursors: BTreeMap<String, SinkCursor> =
        serde_json::from_slice(body).map_err(|err| format!("cursors: {err}"))?;
    Ok(cursors.get(host_id).copied().filter(|cursor| cursor.time.is_set()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_good_answer_is_a_cursor() {
        let answer =
            |status: &str, body: &str| parse(format!("HTTP/1.0 {status}\r\nA: b\r\n\r\n{body}").as_bytes(), "h");
        let found =
            answer("200 OK", r#"{"h":{"time":"2026-01-02T03:04:05.000001Z","seq":7},"x":{}}"#).unwrap().unwrap();
        assert_eq!((found.seq, found.time.to_string().as_str()), (7, "2026-01-02T03:04:05.000001Z"));
        assert_eq!(answer("200 OK", "{}"), Ok(None));
        assert!(answer("500 Oops", "{}").unwrap_err().contains("500 Oops"));
        assert!(answer("200 OK", "[").is_err());
        assert!(parse(b"HTTP/1.0 200 OK", "h").is_err());
    }
}
