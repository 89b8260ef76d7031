//! From the job to the client: its terminal, its pipes, or its log.

use std::io;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use flynn_logmux::{LogMux, ReadError};
use flynn_types::host::attach::{self, Frame};
use flynn_types::host::{ActiveJob, metadata};
use flynn_types::id::JobId;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::Gone;
use super::io::FrameWriter;

/// Longest payload of one frame, in bytes.
const CHUNK: usize = 32 << 10;
/// Frames that wait for a slow client.
const QUEUE: usize = 4;

/// Stored and following lines of the streams that a client wants.
pub(super) type Lines = BoxStream<'static, Result<(u8, Bytes), ReadError>>;

/// Lines of a job: with `history` those that are logged already, with `follow` those that come until its end.
/// `wanted` are stdout, stderr and init log.
pub(super) fn open_log(
    logs: &LogMux,
    id: &JobId,
    job: &ActiveJob,
    wanted: [bool; 3],
    history: bool,
    follow: bool,
) -> Lines {
    let lines = logs.attach(id, job.job.meta(metadata::APP), history, follow);
    let wants = move |stream: u8| wanted.get(usize::from(stream).wrapping_sub(1)).copied().unwrap_or(false);
    lines.filter(move |line| std::future::ready(line.as_ref().map_or(true, |(stream, _)| wants(*stream)))).boxed()
}

/// One frame per line. A log that cannot be read ends the output; the client is told with a line of the init log.
pub(super) async fn copy_lines<W: AsyncWrite + Unpin>(
    mut lines: Lines,
    writer: &mut FrameWriter<W>,
) -> Result<(), Gone> {
    while let Some(line) = lines.next().await {
        match line {
            Ok((stream, text)) => writer.send(Frame::Data { stream, payload: text.into() }).await?,
            Err(err) => {
                warn!(err = &err as &dyn std::error::Error, "job log cannot be read for an attached client");
                let payload = format!("host: the job's log cannot be read: {err}\n").into_bytes();
                writer.send(Frame::Data { stream: attach::STREAM_INIT_LOG, payload }).await?;
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Bytes as they come, to the end of `source`.
pub(super) async fn copy<R, W>(mut source: R, stream: u8, writer: &mut FrameWriter<W>) -> Result<(), Gone>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; CHUNK];
    loop {
        match source.read(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(n) => writer.send(Frame::Data { stream, payload: buffer[..n].to_vec() }).await?,
            Err(err) => {
                debug!(%err, "job's output cannot be read any more");
                return Ok(());
            }
        }
    }
}

/// A job's own pipes to their ends; what the client does not want is read and dropped, so that the job goes on.
pub(super) async fn copy_pipes<W: AsyncWrite + Unpin>(
    pipes: [OwnedFd; 3],
    wanted: [bool; 3],
    writer: &mut FrameWriter<W>,
) -> Result<(), Gone> {
    let (sender, mut frames) = mpsc::channel(QUEUE);
    let streams = [attach::STREAM_STDOUT, attach::STREAM_STDERR, attach::STREAM_INIT_LOG];
    let [stdout, stderr, init_log] = pipes;
    let readers = [stdout, stderr, init_log].into_iter().zip(streams).zip(wanted).map(|((pipe, stream), wanted)| {
        let sender = sender.clone();
        async move {
            if let Err(err) = read_pipe(pipe, stream, wanted, sender).await {
                debug!(stream, %err, "job's output cannot be read any more");
            }
        }
    });
    let readers = futures_util::future::join_all(readers);
    drop(sender);
    let write = async {
        while let Some(frame) = frames.recv().await {
            writer.send(frame).await?;
        }
        Ok(())
    };
    let mut readers = std::pin::pin!(readers);
    let mut write = std::pin::pin!(write);
    tokio::select! {
        // All readers have ended: the queue is written to its end.
        _ = &mut readers => write.await,
        written = &mut write => written,
    }
}

async fn read_pipe(pipe: OwnedFd, stream: u8, wanted: bool, frames: mpsc::Sender<Frame>) -> io::Result<()> {
    let mut pipe = pipe::Receiver::from_owned_fd(pipe)?;
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = pipe.read(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        if wanted && frames.send(Frame::Data { stream, payload: buffer[..n].to_vec() }).await.is_err() {
            return Ok(()); // the client is gone
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> (io::PipeReader, io::PipeWriter) {
        io::pipe().unwrap()
    }

    #[tokio::test]
    async fn unwanted_output_is_drained_and_wanted_output_is_whole() {
        use io::Write as _;
        let ((out, mut out_end), (err, mut err_end), (log, log_end)) = (pipe(), pipe(), pipe());
        // More than a pipe holds: a stream that nobody reads would stop the writer.
        let big = vec![0xfe; 300 << 10];
        let writing = std::thread::spawn({
            let big = big.clone();
            move || {
                err_end.write_all(&big).unwrap();
                out_end.write_all(&big).unwrap();
            }
        });
        drop(log_end);
        let (client, server) = tokio::io::duplex(1 << 20);
        let mut writer = FrameWriter::new(server);
        copy_pipes([out.into(), err.into(), log.into()], [true, false, true], &mut writer).await.unwrap();
        drop(writer);
        writing.join().unwrap();
        let mut reader = super::super::io::FrameReader::new(client);
        let mut received = Vec::new();
        while let Some(frame) = reader.next().await {
            let Frame::Data { stream: attach::STREAM_STDOUT, payload } = frame else { panic!("{frame:?}") };
            received.extend(payload);
        }
        assert_eq!(received, big);
    }
}
