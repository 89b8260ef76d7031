//! One node as a process of its own, to be killed, stopped and starved by hand or by a fault test.
//!
//! `cargo run -p flynn-discoverd --example node -- <host id> <ip:port> <store> [peer ip:port …]`

use flynn_discoverd::{Config, Discoverd};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let logs = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(logs).with_writer(std::io::stderr).init();
    let mut args = std::env::args().skip(1);
    let mut next = |what: &str| args.next().ok_or_else(|| format!("{what} is missing"));
    let (host, addr, store) = (next("the host id")?, next("the address")?.parse()?, next("the store")?);
    let peers = args.map(|peer| peer.parse()).collect::<Result<Vec<_>, _>>()?;
    let listener = tokio::net::TcpListener::bind(addr).await?;
    let node = Discoverd::start(Config::new(host, addr, store, peers), vec![listener]).await?;
    tokio::select! {
        () = node.ended() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    node.shutdown().await;
    Ok(())
}
