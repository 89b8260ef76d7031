//! Telling systemd how the daemon is doing: sd_notify(3).

use std::os::unix::net::UnixDatagram;

/// Sends `state` to who started us, if that wants to know. Never fails: without systemd there is nobody to tell.
pub(super) fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let send = || {
        let socket = UnixDatagram::unbound()?;
        match path.to_str().and_then(|path| path.strip_prefix('@')) {
            Some(name) => {
                use std::os::linux::net::SocketAddrExt as _;
                let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
                socket.send_to_addr(state.as_bytes(), &address)
            }
            None => socket.send_to(state.as_bytes(), &path),
        }
    };
    if let Err(err) = send() {
        tracing::warn!(%err, state, "cannot notify systemd");
    }
}

/// Whether the machine is going down, so that jobs must be stopped rather than left.
pub(super) async fn machine_is_stopping() -> bool {
    if !std::path::Path::new("/run/systemd/system").is_dir() {
        return false;
    }
    let asked = tokio::process::Command::new("systemctl").arg("is-system-running").kill_on_drop(true).output();
    match tokio::time::timeout(std::time::Duration::from_secs(5), asked).await {
        Ok(Ok(output)) => output.stdout.trim_ascii() == b"stopping",
        Ok(Err(_)) | Err(_) => false,
    }
}
