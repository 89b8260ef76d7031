//! A connection to a server that can be cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// Passes connections on to a server.
pub(crate) struct Wire {
    port: u16,
    /// Changes when all connections are to be cut.
    cut: watch::Sender<()>,
    /// Of the connections to come, so many are closed at once.
    refuse: Arc<AtomicU32>,
    _passing: AbortOnDropHandle<()>,
}

impl Wire {
    pub(crate) async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("an address").port();
        let (cut, refuse) = (watch::Sender::new(()), Arc::<AtomicU32>::default());
        let passing = pass(listener, server, cut.subscribe(), Arc::clone(&refuse));
        Self { port, cut, refuse, _passing: AbortOnDropHandle::new(tokio::spawn(passing)) }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Cuts all connections, and so many of those to come.
    pub(crate) fn cut_and_refuse(&self, count: u32) {
        self.refuse.store(count, Ordering::SeqCst);
        self.cut.send_replace(());
    }
}

async fn pass(listener: TcpListener, server: u16, cut: watch::Receiver<()>, refuse: Arc<AtomicU32>) {
    let mut connections = JoinSet::new();
    while let Ok((mut near, _)) = listener.accept().await {
        if refuse.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            continue;
        }
        let mut cut = cut.clone();
        cut.mark_unchanged();
        connections.spawn(async move {
            let Ok(mut far) = TcpStream::connect(("127.0.0.1", server)).await else { return };
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                _ = cut.changed() => {}
            }
        });
    }
}
