//! Queries over connections (RFC 7766): each message after its length, answered in order.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::server::{Ends, Reply, Shared};
use crate::zone::{Scratch, Transport};

/// Connections at once; more wait in the listener's queue.
const CONNECTIONS: usize = 256;
/// Time in which a whole query must arrive, or an answer be taken.
const IDLE: Duration = Duration::from_secs(10);
/// How long an open connection may still bring a query when the server is about to end.
const LAST_CALL: Duration = Duration::from_millis(500);
/// Pause after a failed accept, for example when descriptors are used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(crate) async fn serve(shared: Arc<Shared>, listener: Arc<TcpListener>, tasks: TaskTracker, ends: Ends) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let accepting = async {
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(err) => {
                    tracing::warn!(%err, "DNS connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let shared = Arc::clone(&shared);
            let Ends { stop, cut } = ends.clone();
            tasks.spawn(cut.run_until_cancelled_owned(async move {
                let _permit = permit;
                if let Err(err) = connection(&shared, stream, &stop).await {
                    tracing::debug!(%err, "DNS connection ended");
                }
            }));
        }
    };
    ends.stop.run_until_cancelled(accepting).await;
}

async fn connection(shared: &Shared, stream: TcpStream, stop: &CancellationToken) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::with_capacity(1024, stream);
    let (mut packet, mut answer) = (Vec::new(), Vec::new());
    loop {
        let read = {
            let mut reading = pin!(read(&mut stream, &mut packet));
            tokio::select! {
                read = timeout(IDLE, &mut reading) => read,
                // A query may be on its way: closing now would lose it.
                () = stop.cancelled() => timeout(LAST_CALL, reading).await,
            }
        };
        match read {
            Ok(Ok(())) => {}
            Ok(Err(err)) if err.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(err)) => return Err(err),
            Err(_idle) => return Ok(()),
        }
        match shared.reply(&packet, Transport::Tcp, &mut Scratch::default(), &mut answer) {
            Reply::None => return Ok(()), // whoever sends this does not speak DNS
            Reply::Ready => {}
            Reply::Forward => answer = shared.forward(&packet, Transport::Tcp).await,
        }
        let length = u16::try_from(answer.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        answer.splice(0..0, length.to_be_bytes());
        timeout(IDLE, stream.write_all(&answer)).await??;
    }
}

async fn read(stream: &mut BufReader<TcpStream>, packet: &mut Vec<u8>) -> io::Result<()> {
    let length = stream.read_u16().await?;
    packet.resize(usize::from(length), 0);
    stream.read_exact(packet).await?;
    Ok(())
}
