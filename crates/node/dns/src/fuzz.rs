//! The fuzzer's door: a packet is answered as the sockets' loops do, from a registry with one service.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::directory::{Directory, Instance, ServiceView};
use crate::forward::Forwarder;
use crate::server::{Reply, Shared};
use crate::wire::EDNS_LEN;
use crate::zone::{Scratch, Transport};

struct OneService(ServiceView);

impl Directory for OneService {
    fn service(&self, name: &str) -> Option<ServiceView> {
        (name == "web").then(|| self.0.clone())
    }
}

thread_local! {
    static SERVER: RefCell<(Shared, Scratch)> = RefCell::new((server(), Scratch::default()));
}

fn server() -> Shared {
    let instance =
        |n: u8| Instance { id: format!("{n:032x}"), proto: "tcp".to_owned(), ip: Some([10, 0, 0, n].into()), port: 80 };
    let instances: Arc<[Instance]> = (1..=100).map(instance).collect();
    let view = ServiceView { leader: Some(Arc::new(instances[0].clone())), instances };
    let own: BTreeSet<SocketAddr> = BTreeSet::new();
    Shared::new("discoverd", Arc::new(OneService(view)), Forwarder::new(own.into_iter().collect()))
}

/// Panics when the answer breaks a promise of the protocol.
pub fn fuzz_query(packet: &[u8]) {
    SERVER.with_borrow_mut(|(shared, scratch)| {
        for (transport, limit) in [(Transport::Udp, usize::from(EDNS_LEN)), (Transport::Tcp, usize::from(u16::MAX))] {
            let mut out = Vec::new();
            if shared.reply(packet, transport, scratch, &mut out) == Reply::Ready {
                assert!(out.len() <= limit, "{} bytes", out.len());
                assert_eq!(out.get(..2), packet.get(..2), "the answer has the query's id");
                assert!(out[2] & 0x80 != 0, "it is an answer");
            }
        }
    });
}
