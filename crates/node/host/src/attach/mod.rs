//! `POST /attach`: a job's streams over one connection (spec flynn-host section 4.6).
//!
//! ```text
//! client ──frames──► reader ──► stdin, terminal, signals
//! client ◄──frames── writer ◄── terminal | pipes | log
//! ```

mod input;
mod io;
mod output;

use std::pin::pin;
use std::sync::Arc;

use flynn_types::host::attach::{self, Frame};
use flynn_types::host::{ActiveJob, AttachRequest, JobStatus};
use flynn_types::id::JobId;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;

use self::input::Input;
use self::io::{FrameReader, FrameWriter};
use crate::jobs::{Live, Runner, Turn};

/// The client is gone, or spoke what is no attach protocol.
#[derive(Debug)]
pub(crate) struct Gone;

/// Serves one connection after the 101 response, to its end.
pub(crate) async fn serve<S>(runner: Arc<Runner>, request: AttachRequest, stream: S)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (reader, writer) = tokio::io::split(stream);
    let (mut reader, mut writer) = (FrameReader::new(reader), FrameWriter::new(writer));
    let ended = match request.job_id.parse::<JobId>() {
        Ok(id) => {
            let session = Session { runner, id, flags: request.flags, size: (request.height, request.width) };
            session.run(&mut reader, &mut writer).await
        }
        Err(err) => writer.send(Frame::Error(err.to_string())).await,
    };
    if ended.is_err() {
        debug!(job_id = request.job_id, "attached client is gone");
    }
    writer.close().await;
}

struct Session {
    runner: Arc<Runner>,
    id: JobId,
    flags: u8,
    /// Height and width of the client's terminal in characters.
    size: (u16, u16),
}

/// Where a client attaches.
enum Point {
    /// The turn is kept until the client is attached: the job waits for it.
    Container(ActiveJob, Live, Option<Turn>),
    /// The job has ended.
    Past(ActiveJob),
}

impl Session {
    fn wants(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    async fn run<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &self,
        reader: &mut FrameReader<R>,
        writer: &mut FrameWriter<W>,
    ) -> Result<(), Gone> {
        match self.find(reader, writer).await? {
            Point::Past(job) if job.status == JobStatus::Failed => {
                writer.send(Frame::Error(job.error.unwrap_or_else(|| "unknown failure".into()))).await
            }
            Point::Past(job) => self.past(&job, writer).await,
            Point::Container(job, live, turn) if job.job.config.tty => self.terminal(&live, turn, reader, writer).await,
            Point::Container(job, live, turn) if job.job.config.disable_log => {
                self.pipes(&live, turn, reader, writer).await
            }
            Point::Container(job, live, turn) => self.logged(&job, live, turn, reader, writer).await,
        }
    }

    /// Waits until the job is there.
    async fn find<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &self,
        reader: &mut FrameReader<R>,
        writer: &mut FrameWriter<W>,
    ) -> Result<Point, Gone> {
        let mut told = false;
        loop {
            // First the gate, then the job: a job that ends in between closes the gate and so wakes us.
            let turn = self.runner.gate.wait(&self.id);
            let job = self.runner.book.find(&self.id).await;
            if let Some(job) = &job
                && !job.status.is_active()
            {
                drop(turn);
                self.runner.gate.sweep(&self.id);
                return Ok(Point::Past(job.clone()));
            }
            let Some(turn) = turn else {
                // Past its gate; no container for a moment while its end is being recorded.
                match (job, self.runner.live.get(&self.id)) {
                    (Some(job), Some(live)) => return Ok(Point::Container(job, live, None)),
                    _ => tokio::task::yield_now().await,
                }
                continue;
            };
            if !told {
                writer.send(Frame::Waiting).await?;
                told = true;
            }
            let turn = tokio::select! {
                turn = turn => turn,
                () = reader.closed() => {
                    self.runner.gate.sweep(&self.id);
                    return Err(Gone);
                }
            };
            // Without a turn the job failed before its start, which the next look shows.
            if let Ok(turn) = turn
                && let (Some(job), Some(live)) = (self.runner.book.get(&self.id), self.runner.live.get(&self.id))
            {
                return Ok(Point::Container(job, live, Some(turn)));
            }
        }
    }

    /// The job has ended: its stored output, if any, to the last line, which may still be on its way into the log.
    async fn past<W: AsyncWrite + Unpin>(&self, job: &ActiveJob, writer: &mut FrameWriter<W>) -> Result<(), Gone> {
        let config = &job.job.config;
        if config.tty || self.wants(attach::FLAG_STDIN) {
            return writer.send(Frame::Error(attach::NOT_RUNNING.into())).await;
        }
        writer.send(Frame::Success).await?;
        if !config.disable_log && self.wants(attach::FLAG_LOGS) {
            output::copy_lines(self.open_log(job, true), writer).await?;
        }
        self.finish(config.tty, writer).await
    }

    /// Terminal and client are joined; when either ends, so does the job.
    async fn terminal<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &self,
        live: &Live,
        turn: Option<Turn>,
        reader: &mut FrameReader<R>,
        writer: &mut FrameWriter<W>,
    ) -> Result<(), Gone> {
        let (input, output) = match io::open_terminal(&live.container).await {
            Ok(ends) => ends,
            Err(reason) => return writer.send(Frame::Error(reason)).await,
        };
        let (height, width) = self.size;
        if height > 0 && width > 0 {
            let _ = live.container.resize(height, width).await; // a terminal of unknown size still works
        }
        writer.send(Frame::Success).await?;
        drop(turn);
        let mut input = Input::terminal(live.container.clone(), self.wants(attach::FLAG_STDIN), input);
        let copied = {
            let mut output = pin!(output::copy(output, attach::STREAM_STDOUT, writer));
            tokio::select! {
                copied = &mut output => {
                    self.stop_job().await;
                    copied
                }
                // A terminal that nobody looks at ends its job; its last words still go out.
                () = input.run(reader) => tokio::join!(output, self.stop_job()).0,
            }
        };
        copied?;
        self.report_end(writer).await
    }

    /// The job's own pipes, for one client.
    async fn pipes<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &self,
        live: &Live,
        turn: Option<Turn>,
        reader: &mut FrameReader<R>,
        writer: &mut FrameWriter<W>,
    ) -> Result<(), Gone> {
        let Ok(pipes) = live.container.take_output().await else {
            return writer.send(Frame::Error(attach::ALREADY_ATTACHED.into())).await;
        };
        let mut input = match self.open_input(live).await {
            Ok(input) => input,
            Err(reason) => return writer.send(Frame::Error(reason)).await,
        };
        writer.send(Frame::Success).await?;
        drop(turn);
        self.exchange(&mut input, reader, output::copy_pipes(pipes, self.wanted(), writer)).await?;
        self.finish(false, writer).await
    }

    /// Output from the log, input to the job's stdin.
    async fn logged<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &self,
        job: &ActiveJob,
        live: Live,
        turn: Option<Turn>,
        reader: &mut FrameReader<R>,
        writer: &mut FrameWriter<W>,
    ) -> Result<(), Gone> {
        let mut input = match self.open_input(&live).await {
            Ok(input) => input,
            Err(reason) => return writer.send(Frame::Error(reason)).await,
        };
        drop(live);
        let follow = !self.wants(attach::FLAG_LOGS) || self.wants(attach::FLAG_STREAM);
        let lines = self.open_log(job, follow);
        writer.send(Frame::Success).await?;
        drop(turn);
        self.exchange(&mut input, reader, output::copy_lines(lines, writer)).await?;
        self.finish(false, writer).await
    }

    /// Carries both directions until the output has ended. A client that only looks on is gone when it closes its side;
    /// one that gave input may have reached the end of it, and its job is told by the end of its stdin.
    async fn exchange<R: AsyncRead + Unpin>(
        &self,
        input: &mut Input,
        reader: &mut FrameReader<R>,
        output: impl Future<Output = Result<(), Gone>>,
    ) -> Result<(), Gone> {
        let mut output = pin!(output);
        tokio::select! {
            ended = &mut output => return ended,
            () = input.run(reader) => {}
        }
        let looks_on = !input.takes_data();
        input.close();
        tokio::select! {
            ended = &mut output => ended,
            () = reader.closed(), if looks_on => Err(Gone),
        }
    }

    /// In a task of its own: the daemon may cancel this session while the job is being stopped.
    async fn stop_job(&self) {
        let (runner, id) = (Arc::clone(&self.runner), self.id.clone());
        let stopping = self.runner.tasks.spawn(async move { runner.stop(&id).await });
        let _ = stopping.await; // ended by itself meanwhile
    }

    async fn open_input(&self, live: &Live) -> Result<Input, String> {
        if !self.wants(attach::FLAG_STDIN) {
            return Ok(Input::none(live.container.clone()));
        }
        match live.container.take_stdin().await {
            Ok(stdin) => Input::stdin(live.container.clone(), stdin).map_err(|err| err.to_string()),
            Err(_) => Err(attach::STDIN_CLOSED.into()),
        }
    }

    fn open_log(&self, job: &ActiveJob, follow: bool) -> output::Lines {
        output::open_log(&self.runner.logs, &self.id, job, self.wanted(), self.wants(attach::FLAG_LOGS), follow)
    }

    /// Which of stdout, stderr and init log the client wants.
    fn wanted(&self) -> [bool; 3] {
        [attach::FLAG_STDOUT, attach::FLAG_STDERR, attach::FLAG_INIT_LOG].map(|flag| self.wants(flag))
    }

    /// The output has ended.
    async fn finish<W: AsyncWrite + Unpin>(&self, tty: bool, writer: &mut FrameWriter<W>) -> Result<(), Gone> {
        if tty || self.wants(attach::FLAG_STREAM) {
            return self.report_end(writer).await;
        }
        for (flag, stream) in
            [(attach::FLAG_STDOUT, attach::STREAM_STDOUT), (attach::FLAG_STDERR, attach::STREAM_STDERR)]
        {
            if self.wants(flag) {
                writer.send(Frame::Data { stream, payload: Vec::new() }).await?;
            }
        }
        Ok(())
    }

    /// Waits for the job's final state and reports it.
    async fn report_end<W: AsyncWrite + Unpin>(&self, writer: &mut FrameWriter<W>) -> Result<(), Gone> {
        let mut events = self.runner.book.subscribe();
        let job = loop {
            match self.runner.book.get(&self.id) {
                Some(job) if !job.status.is_active() => break job,
                Some(_) => {}
                None => return Err(Gone),
            }
            // A lagging receiver just looks again.
            if let Err(tokio::sync::broadcast::error::RecvError::Closed) = events.recv().await {
                return Err(Gone);
            }
        };
        let frame = match job.status {
            JobStatus::Failed => Frame::Error(job.error.unwrap_or_else(|| "unknown failure".into())),
            _ => Frame::Exit(job.exit_status.unwrap_or_default()),
        };
        writer.send(frame).await
    }
}
