//! Ways from the test's process to ports of hosts: a listener on loopback for each, and one thread that accepts there and
//! connects from inside the host, so that it works also when the host is cut off.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use nix::sched::{CloneFlags, setns};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;

use crate::process::ProcessId;

/// Whose namespace to connect from, and to which address: `None` while the host is down.
pub(crate) type Target = Arc<Mutex<Option<(ProcessId, Ipv4Addr)>>>;

/// The thread and its listeners. Everything ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    listeners: mpsc::Sender<(TcpListener, u16, Target)>,
    local: Mutex<BTreeMap<(usize, u16), SocketAddr>>,
}

impl Proxy {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let (listeners, queue) = mpsc::channel(16);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the proxy")?;
        // The thread changes its network namespace at will, so nothing else may run on it.
        std::thread::Builder::new()
            .name("harness-proxy".to_owned())
            .spawn(move || runtime.block_on(accept_all(queue)))?;
        Ok(Self { listeners, local: Mutex::default() })
    }

    /// Where on loopback the port of a host answers.
    pub(crate) fn address(&self, host: usize, port: u16, target: &Target) -> anyhow::Result<SocketAddr> {
        let mut local = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(address) = local.get(&(host, port)) {
            return Ok(*address);
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen on loopback")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        self.listeners.try_send((listener, port, Arc::clone(target))).context("the proxy has ended")?;
        local.insert((host, port), address);
        Ok(address)
    }
}

async fn accept_all(mut queue: mpsc::Receiver<(TcpListener, u16, Target)>) {
    // Tasks end with the runtime, which ends when the queue's sender is dropped.
    while let Some((listener, port, target)) = queue.recv().await {
        let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { continue };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, port, Arc::clone(&target)));
            }
        });
    }
}

/// Errors close the connection, as a host that is down or refuses would.
async fn forward(mut client: TcpStream, port: u16, target: Target) -> anyhow::Result<()> {
    let target = *target.lock().unwrap_or_else(PoisonError::into_inner);
    let (init, address) = target.context("the host is down")?;
    // The socket belongs to the namespace in which it is made, and nothing else runs on this thread in between.
    let socket = {
        let namespace = std::fs::File::open(init.proc("ns/net"))?;
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        TcpSocket::new_v4()?
    };
    let mut server = socket.connect((address, port).into()).await?;
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
