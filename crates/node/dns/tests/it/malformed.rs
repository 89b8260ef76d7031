//! Packets that are no proper queries.

use std::net::SocketAddr;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::support::{Registry, patience, query, raw_udp, start, texts, udp, with_edns};

async fn assert_alive(addr: SocketAddr) {
    let answer = udp(addr, &query("web.discoverd.", RecordType::A)).await;
    assert_eq!(texts(&answer.answers), ["web.discoverd. 10.0.0.1"]);
}

#[tokio::test]
async fn wrong_queries_get_the_code_that_says_so() {
    let (server, addr) = start(Registry::default().with("web", &["10.0.0.1:80"]), vec![]);
    let good = with_edns(query("web.discoverd.", RecordType::A), 1232).to_vec().unwrap();
    let question_end = 12 + 15 + 4;
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = good.clone();
        change(&mut packet);
        packet
    };
    for (name, packet, code) in [
        ("header alone", good[..12].to_vec(), ResponseCode::FormErr),
        ("cut in the name", good[..20].to_vec(), ResponseCode::FormErr),
        ("cut in OPT", good[..good.len() - 1].to_vec(), ResponseCode::FormErr),
        ("two questions", changed(&|p| p[5] = 2), ResponseCode::FormErr),
        ("no question", changed(&|p| p[5] = 0), ResponseCode::FormErr),
        ("compressed question", changed(&|p| p[12..14].copy_from_slice(&[0xc0, 12])), ResponseCode::FormErr),
        ("reserved label type", changed(&|p| p[12] = 0x80), ResponseCode::FormErr),
        (
            "two OPT records",
            changed(&|p| {
                p.extend_from_slice(&good[question_end..]);
                p[11] = 2
            }),
            ResponseCode::FormErr,
        ),
        ("update", changed(&|p| p[2] = 0x28), ResponseCode::NotImp),
        ("notify", changed(&|p| p[2] = 0x20), ResponseCode::NotImp),
        ("class chaos", changed(&|p| p[question_end - 1] = 3), ResponseCode::Refused),
    ] {
        let answer = Message::from_vec(&raw_udp(addr, &packet).await).unwrap();
        assert_eq!(answer.metadata.response_code, code, "{name}");
        assert_eq!(answer.metadata.id.to_be_bytes(), packet[..2], "{name}");
    }
    assert_eq!(server.statistics().malformed, 10);
}

#[tokio::test]
async fn responses_and_fragments_are_dropped() {
    let (server, addr) = start(Registry::default().with("web", &["10.0.0.1:80"]), vec![]);
    let mut response = query("web.discoverd.", RecordType::A).to_vec().unwrap();
    response[2] |= 0x80;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for packet in [&[][..], &[1], &[0; 11], &response] {
        socket.send_to(packet, addr).await.unwrap();
    }
    assert_alive(addr).await;
    assert_eq!(server.statistics().malformed, 4);
    assert!(socket.try_recv(&mut [0; 10]).is_err(), "no answer to any of them");
}

#[tokio::test]
async fn connections_that_stall_or_lie_do_not_disturb_others() {
    let (server, addr) = start(Registry::default().with("web", &["10.0.0.1:80"]), vec![]);
    let mut stalled = TcpStream::connect(addr).await.unwrap();
    stalled.write_all(&[0xff]).await.unwrap();
    let mut cut = TcpStream::connect(addr).await.unwrap();
    cut.write_all(&[0xff, 0xff, 1, 2, 3]).await.unwrap();
    cut.shutdown().await.unwrap();
    let mut empty = TcpStream::connect(addr).await.unwrap();
    empty.write_all(&[0, 0]).await.unwrap();
    for stream in [&mut cut, &mut empty] {
        let closed = timeout(patience(), stream.read(&mut [0; 10])).await.expect("closed in time");
        assert_eq!(closed.unwrap_or(0), 0);
    }
    // Several queries in one write are answered in order.
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let mut packets = Vec::new();
    for id in 1..=50u16 {
        let mut message = query("web.discoverd.", RecordType::A);
        message.metadata.id = id;
        let packet = message.to_vec().unwrap();
        packets.extend_from_slice(&(packet.len() as u16).to_be_bytes());
        packets.extend_from_slice(&packet);
    }
    stream.write_all(&packets).await.unwrap();
    for id in 1..=50u16 {
        let len = timeout(patience(), stream.read_u16()).await.unwrap().unwrap();
        let mut packet = vec![0; len.into()];
        stream.read_exact(&mut packet).await.unwrap();
        assert_eq!(Message::from_vec(&packet).unwrap().metadata.id, id);
    }
    assert_alive(addr).await;
    timeout(flynn_patience::seconds(5), server.shutdown())
        .await
        .expect("the stalled connection does not hold the end up");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Valid queries with bytes changed and cut anywhere: each case is a hundred packets to a living server.
    #[test]
    fn no_packet_harms_the_server(
        packets in prop::collection::vec(
            (prop::collection::vec((0usize..64, any::<u8>()), 0..6), 0usize..80, prop::collection::vec(any::<u8>(), 0..40)),
            100,
        )
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_server, addr) = start(Registry::default().with("web", &["10.0.0.1:80", "[fd00::1]:1"]), vec![]);
            let good = with_edns(query("_web._tcp.discoverd.", RecordType::ANY), 600).to_vec().unwrap();
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let mut buffer = vec![0; 65535];
            for (changes, cut, tail) in packets {
                let mut packet = good.clone();
                for (at, byte) in changes {
                    if let Some(place) = packet.get_mut(at) {
                        *place = byte;
                    }
                }
                packet.truncate(cut);
                packet.extend(tail);
                socket.send_to(&packet, addr).await.unwrap();
                tokio::task::yield_now().await;
                // Whatever comes back is a message.
                while let Ok(len) = socket.try_recv(&mut buffer) {
                    assert!(len <= 1232);
                    Message::from_vec(&buffer[..len]).unwrap();
                }
            }
            let answer = udp(addr, &query("leader.web.discoverd.", RecordType::A)).await;
            assert_eq!(texts(&answer.answers), ["leader.web.discoverd. 10.0.0.1"]);
        });
    }
}
