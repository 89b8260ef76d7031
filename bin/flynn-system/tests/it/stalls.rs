//! A worker that stands still.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};

use crate::backend::Backend;
use crate::rig::{Router, connect, only_supervises, until};

/// A tracer that lets one thread stand still at its next look for events, as a bug or a bad disk would.
struct Tracer(Child);

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Tracer {
    fn stall(thread: u32) -> Self {
        let waits = "epoll_wait,epoll_pwait,epoll_pwait2";
        let tracer = Command::new("strace")
            .args(["-p", &thread.to_string(), "-e", &format!("trace={waits}")])
            .args(["-e", &format!("inject={waits}:delay_enter=600s")])
            .stderr(Stdio::null())
            .spawn();
        Self(tracer.expect("strace is installed"))
    }
}

/// The thread of a worker, when it has begun.
fn thread(pid: u32, name: &str) -> Option<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the program runs").flatten();
    let mut named = threads
        .filter(|thread| std::fs::read_to_string(thread.path().join("comm")).is_ok_and(|comm| comm.trim() == name));
    named.next()?.file_name().to_str()?.parse().ok()
}

#[test]
fn a_worker_that_stands_still_is_replaced_and_who_waits_is_served() {
    let backend = Backend::start("backend 1");
    let router = Router::start(&[&backend], &["--stall-seconds", "1", "--drain-seconds", "2"]);
    let worker = until("the worker runs", || thread(router.program.pid(), "router-1"));
    let tracer = Tracer::stall(worker);
    until("the thread stands still", || {
        let status = std::fs::read_to_string(format!("/proc/{worker}/status"));
        status.ok()?.contains("State:\tt").then_some(())
    });
    // Some of them wait in the queue of the worker that does not look.
    let clients: Vec<_> = (0..40)
        .map(|_| {
            let mut client = connect(router.http);
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("sent");
            client
        })
        .collect();
    until("it is noticed", || (router.logged("worker stands still") > 0).then_some(()));
    for mut client in clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap_or_else(|err| panic!("{err}; {}", router.log()));
        assert!(answer.ends_with("backend 1"), "{answer}; {}", router.log());
    }
    until("the worker is given up", || (router.logged("a worker does not end") > 0).then_some(()));
    // The kernel ends a thread that is traced only with its tracer.
    drop(tracer);
    until("the process only supervises", || only_supervises(router.program.pid()).then_some(()));
    assert!(router.log().contains("last it"), "{}", router.log());
}
