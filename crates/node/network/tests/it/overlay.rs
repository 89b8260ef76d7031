//! Packets between containers, hosts and the world outside.

use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;

use tokio_util::sync::CancellationToken;

use crate::world::{Echo, World, ask, client, reaches, run, until};

#[test]
fn containers_of_two_hosts_talk_with_their_own_addresses() {
    let world = World::new();
    let (one, two) = (world.started(1), world.started(2));
    let (a, b) = (one.container("a"), two.container("b"));
    assert_ne!(one.network().subnet(), two.network().subnet());
    let echo = b.echo();
    assert_eq!(reaches(&a.client(), echo.address), a.ip(), "never masqueraded inside the cluster");
    let back = a.echo();
    assert_eq!(reaches(&b.client(), back.address), b.ip());
    // Host to container of the other host: the host's overlay address.
    assert_eq!(reaches(&client(&one.namespace), echo.address), one.network().subnet().address());
    let neighbour = one.container("neighbour");
    assert_eq!(reaches(&neighbour.client(), back.address), neighbour.ip());
}

#[test]
fn the_world_outside_sees_the_host_and_nothing_of_containers() {
    let world = World::new();
    let one = world.started(1);
    let outside = Echo::start(&world.switch, Ipv4Addr::new(10, 99, 0, 254));
    assert_eq!(reaches(&one.container("a").client(), outside.address), Ipv4Addr::new(10, 99, 0, 1));
}

#[test]
fn packets_of_the_containers_size_pass_in_one_piece() {
    for (underlay_mtu, mtu) in [(1500, 1450), (1400, 1350), (9000, 8950)] {
        let world = World::new();
        let (mut one, mut two) = (world.host(1), world.host(2));
        run(&world.switch, &format!("ip link set port1 mtu {underlay_mtu}"));
        run(&world.switch, &format!("ip link set port2 mtu {underlay_mtu}"));
        run(&one.namespace, &format!("ip link set wan mtu {underlay_mtu}"));
        run(&two.namespace, &format!("ip link set wan mtu {underlay_mtu}"));
        one.start(None);
        two.start(None);
        let (a, b) = (one.container("a"), two.container("b"));
        assert_eq!((one.network().mtu(), a.attachment.mtu), (mtu, mtu));
        assert!(run(&a.namespace, "ip link show eth0").contains(&format!("mtu {mtu} ")));
        let (echo, socket) = (b.echo(), a.client());
        reaches(&socket, echo.address);
        // A datagram that fits carries the don't-fragment flag (Linux's default, ip(7)).
        let largest = vec![b'x'; usize::try_from(mtu).unwrap() - 28];
        assert_eq!(ask(&socket, echo.address, &largest), Some(a.ip()));
        for namespace in [&a.namespace, &one.namespace] {
            let counters = run(namespace, "cat /proc/net/snmp");
            let mut ip = counters.lines().filter(|line| line.starts_with("Ip:")).map(|line| line.split(' '));
            let (mut names, mut values) = (ip.next().unwrap(), ip.next().unwrap());
            let fragments = names.position(|name| name == "FragCreates").and_then(|at| values.nth(at));
            assert_eq!(fragments, Some("0"));
        }
    }
}

#[test]
fn a_daemon_restart_loses_no_packet() {
    let world = World::new();
    let (mut one, mut two) = (world.started(1), world.started(2));
    let (a, b) = (one.container("a"), two.container("b"));
    let (echo, socket) = (b.echo(), a.client());
    socket.set_read_timeout(Some(flynn_patience::seconds(2))).unwrap();
    reaches(&socket, echo.address);
    let restarts = std::thread::spawn(move || {
        for _ in 0..3 {
            for (host, container) in [(&mut one, &a), (&mut two, &b)] {
                let lease = host.stop();
                host.start(Some(lease));
                host.network().reserve(&container.job, container.ip());
                let network = host.network();
                until("the peer is known again", || network.status().peers.is_some());
                host.run(async move {
                    network.reconcile().await.unwrap();
                    network.reconcile().await.unwrap();
                    assert_eq!(network.status().repairs, 0, "nothing was to be put right");
                });
            }
        }
        let next = one.container("next");
        assert_ne!(next.ip(), a.ip());
        (one, two, a, b)
    });
    let mut sent = 0;
    while !restarts.is_finished() {
        sent += 1;
        assert!(ask(&socket, echo.address, b"stream").is_some(), "datagram {sent} was lost");
    }
    assert!(sent > 100, "{sent}");
    restarts.join().unwrap();
}

#[test]
fn a_host_with_a_new_address_keeps_its_subnet_and_is_found() {
    let world = World::new();
    let (one, mut two) = (world.started(1), world.started(2));
    let (a, b) = (one.container("a"), two.container("b"));
    let (echo, socket) = (b.echo(), a.client());
    reaches(&socket, echo.address);
    let lease = two.stop();
    run(&two.namespace, "ip addr add 10.99.0.222/24 dev wan");
    run(&two.namespace, "ip addr del 10.99.0.2/24 dev wan");
    // Removing the first address of an interface takes its secondary ones and routes along.
    run(&two.namespace, "ip addr replace 10.99.0.222/24 dev wan");
    two.config.external_ip = Ipv4Addr::new(10, 99, 0, 222);
    two.start(Some(lease.clone()));
    assert_eq!(two.network().subnet(), lease.subnet);
    assert_eq!(reaches(&socket, echo.address), a.ip());
    let peers = one.network().status().peers.unwrap();
    assert_eq!(peers[0].external_ip, two.config.external_ip);
}

#[test]
fn the_network_comes_up_from_memory_while_the_store_is_away() {
    let world = World::new();
    let (mut one, two) = (world.started(1), world.started(2));
    let (a, b) = (one.container("a"), two.container("b"));
    let (echo, socket) = (b.echo(), a.client());
    reaches(&socket, echo.address);
    let lease = one.stop();
    world.store.away.store(true, Ordering::SeqCst);
    one.start(Some(lease.clone()));
    let network = one.network();
    until("the store's absence is told", || network.status().lease_error.is_some());
    assert_eq!((network.subnet(), network.status().peers), (lease.subnet, None));
    assert!(ask(&socket, echo.address, b"still").is_some(), "what is not known is not removed");
    world.store.away.store(false, Ordering::SeqCst);
    until("the other host is known again", || network.status().peers.is_some_and(|peers| peers.len() == 1));
}

#[test]
fn status_is_healthy_alone_and_with_a_neighbour_that_answers() {
    let world = World::new();
    let one = world.started(1);
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let serve = |host: &crate::world::Host| {
        let (network, stop) = (host.network(), stop.clone());
        host.spawn(async move {
            let listener = tokio::net::TcpListener::bind("0.0.0.0:5002").await.unwrap();
            network.serve_status(listener, stop).await.unwrap();
        });
    };
    serve(&one);
    let get = |path: &str| -> String {
        use std::io::{Read as _, Write as _};
        crate::world::inside(&one.namespace, || {
            let mut answer = String::new();
            if let Ok(mut stream) = std::net::TcpStream::connect("10.99.0.1:5002") {
                write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
                stream.read_to_string(&mut answer).unwrap();
            }
            answer
        })
    };
    until("the status is served", || get("/ping").starts_with("HTTP/1.1 200"));
    assert!(get("/.well-known/status").starts_with("HTTP/1.1 200"));
    let two = world.started(2);
    until("a silent neighbour is noticed", || get("/.well-known/status").starts_with("HTTP/1.1 500"));
    serve(&two);
    until("the neighbour answers", || get("/.well-known/status").contains("\"status\": \"healthy\""));
}
