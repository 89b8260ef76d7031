//! How the machine is doing.

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
