//! Jobs with a terminal.

use std::os::fd::OwnedFd;

use crate::support::{Sandbox, within};

/// Reads the terminal until `text` appeared.
async fn read_until(pty: &OwnedFd, text: &str) -> String {
    let (pty, text) = (pty.try_clone().unwrap(), text.to_owned());
    let reading = tokio::task::spawn_blocking(move || {
        let mut seen = String::new();
        while !seen.contains(&text) {
            let mut buffer = [0; 1024];
            match rustix::io::read(&pty, &mut buffer) {
                Ok(len @ 1..) => seen.push_str(&String::from_utf8_lossy(&buffer[..len])),
                other => panic!("{other:?} after {seen:?}"),
            }
        }
        seen
    });
    within("the terminal", reading).await.unwrap()
}

#[tokio::test]
async fn a_terminal_controls_the_job_and_can_be_resized() {
    let sandbox = Sandbox::new();
    let mut spec =
        sandbox.shell("tty; stty size; trap 'stty size' WINCH; echo ready; while :; do sleep 1 & wait $!; done");
    spec.init.tty = true;
    let job = sandbox.create(spec).await;
    let pty = job.container.take_pty().await.unwrap();
    job.container.resize(24, 80).await.unwrap();
    job.container.resume().await.unwrap();
    let seen = read_until(&pty, "ready").await;
    assert_eq!(seen.trim_end(), "/dev/pts/0\r\n24 80\r\nready");
    job.container.resize(50, 132).await.unwrap();
    read_until(&pty, "50 132").await;
    // Ctrl-C reaches the foreground process: it is the session's terminal.
    rustix::io::write(&pty, b"\x03").unwrap();
    assert_eq!(job.ended().await.status(), 0);
}

#[tokio::test]
async fn what_is_typed_reaches_the_job_also_as_an_ordinary_user() {
    let sandbox = Sandbox::new();
    let mut spec = sandbox.shell("read line </dev/tty; echo \"got $line as $(id -u)\" >/dev/stderr; exit 6");
    spec.init.tty = true;
    (spec.init.uid, spec.init.gid) = (1234, 1234);
    let job = sandbox.run(spec).await;
    let pty = job.container.take_pty().await.unwrap();
    rustix::io::write(&pty, b"hello\n").unwrap();
    read_until(&pty, "got hello as 1234").await;
    assert_eq!(job.ended().await.status(), 6);
}

#[tokio::test]
async fn a_job_without_terminal_says_so() {
    let sandbox = Sandbox::new();
    let job = sandbox.create(sandbox.shell("true")).await;
    assert_eq!(job.container.take_pty().await.unwrap_err().to_string(), "the job has no terminal");
    assert_eq!(job.container.resize(1, 1).await.unwrap_err().to_string(), "the job has no terminal");
    job.container.kill().await.unwrap();
    job.ended().await;
}
