//! Passes frames between a client and a job on its host (spec controller-api section 3.5).

use bytes::{Buf as _, BytesMut};
use flynn_host_client::{AttachReceiver, AttachSender};
use flynn_types::host::attach::Frame;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tracing::debug;

/// Until either side ends.
pub(super) async fn relay(upgrade: OnUpgrade, sender: AttachSender, receiver: AttachReceiver) {
    let client = match upgrade.await {
        Ok(client) => TokioIo::new(client),
        Err(err) => return debug!(%err, "the client went before it was attached"),
    };
    let (read, write) = tokio::io::split(client);
    tokio::select! {
        () = to_host(read, sender) => {}
        () = to_client(receiver, write) => {}
    }
}

async fn to_host(mut client: impl AsyncRead + Unpin, mut host: AttachSender) {
    let mut buffer = BytesMut::new();
    loop {
        match Frame::decode(&buffer) {
            Ok(Some((frame, used))) => {
                buffer.advance(used);
                if let Err(err) = host.send(frame).await {
                    return debug!(%err, "the host takes nothing more");
                }
                continue;
            }
            Ok(None) => {}
            Err(err) => return debug!(%err, "the client sends no frames"),
        }
        match client.read_buf(&mut buffer).await {
            Ok(0) => return debug!("the client has ended the connection"),
            Ok(_) => {}
            Err(err) => return debug!(%err, "the client's connection broke"),
        }
    }
}

async fn to_client(mut host: AttachReceiver, mut client: impl AsyncWrite + Unpin) {
    loop {
        let frame = match host.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(err) => {
                debug!(%err, "the host's connection broke");
                break;
            }
        };
        let passed = async {
            client.write_all(&frame.encode()).await?;
            client.flush().await
        };
        if let Err(err) = passed.await {
            return debug!(%err, "the client takes nothing more");
        }
    }
    let _ = client.shutdown().await; // it may be gone
}
