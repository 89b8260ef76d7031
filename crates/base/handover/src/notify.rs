//! Telling systemd how a program is doing: sd_notify(3).

use std::os::unix::net::UnixDatagram;

/// Sends `state` to who started us, if that wants to know. Never fails: without systemd there is nobody to tell.
pub fn notify(state: &str) {
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
