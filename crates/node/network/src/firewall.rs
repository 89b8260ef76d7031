//! Our nftables table: masquerading of what leaves the cluster, and forwarding.

use std::io;
use std::process::{Output, Stdio};

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::{Config, Lease};

#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    #[error("run nft (package nftables)")]
    Run(#[source] io::Error),
    #[error("set up the firewall table {table}: nft says: {message}")]
    Refused { table: String, message: String },
}

/// The table as one transaction that makes it or replaces it, without a moment in between.
pub(crate) fn rules(config: &Config, lease: &Lease) -> String {
    let Config { nft_table: table, bridge_name: bridge, vxlan_name: vxlan, .. } = config;
    let (subnet, network) = (lease.subnet, lease.network);
    // Traffic between containers of the cluster keeps its addresses: services see who calls. Packets of the overlay are
    // kept to its size even where a neighbour's underlay is wider (maxseg).
    format!(
        r#"add table ip {table}
flush table ip {table}
table ip {table} {{
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {subnet} ip daddr != {network} oifname != "{bridge}" masquerade
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        oifname "{vxlan}" tcp flags syn tcp option maxseg size set rt mtu
        iifname "{bridge}" accept
        iifname "{vxlan}" oifname "{bridge}" accept
        oifname "{bridge}" ct state established,related accept
    }}
}}
"#
    )
}

/// The table as the kernel has it, in nft's spelling; `None` if there is none.
pub(crate) async fn present(table: &str) -> Result<Option<String>, FirewallError> {
    let output = nft(&["-s", "list", "table", "ip", table], None).await?;
    Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Replaces the table and gives it in nft's spelling, for comparison with [`present`].
pub(crate) async fn apply(config: &Config, lease: &Lease) -> Result<Option<String>, FirewallError> {
    let output = nft(&["-f", "-"], Some(rules(config, lease))).await?;
    refused(&config.nft_table, &output)?;
    present(&config.nft_table).await
}

/// Removes the table; absence is success.
pub(crate) async fn remove(table: &str) -> Result<(), FirewallError> {
    let output = nft(&["-f", "-"], Some(format!("add table ip {table}\ndelete table ip {table}\n"))).await?;
    refused(table, &output)
}

fn refused(table: &str, output: &Output) -> Result<(), FirewallError> {
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(FirewallError::Refused { table: table.to_owned(), message })
}

/// Chains of others that drop forwarded packets unless one of their rules accepts them, as container engines make them.
/// Our own accept does not help: any drop wins.
pub(crate) async fn foreign_drops(own_table: &str) -> Result<Vec<String>, FirewallError> {
    let output = nft(&["-j", "list", "chains"], None).await?;
    Ok(drops_in(&output.stdout, own_table))
}

fn drops_in(json: &[u8], own_table: &str) -> Vec<String> {
    let listing: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
    let chains = listing["nftables"].as_array().into_iter().flatten().filter_map(|item| item.get("chain"));
    chains
        .filter(|chain| chain["hook"] == "forward" && chain["policy"] == "drop" && chain["table"] != own_table)
        .filter(|chain| matches!(chain["family"].as_str(), Some("ip" | "inet")))
        .map(|chain| {
            let text = |field: &str| chain[field].as_str().unwrap_or_default().to_owned();
            format!("{} {} {}", text("family"), text("table"), text("name"))
        })
        .collect()
}

async fn nft(arguments: &[&str], input: Option<String>) -> Result<Output, FirewallError> {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(FirewallError::Run)?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        // An nft that ends early says why in its output.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    child.wait_with_output().await.map_err(FirewallError::Run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dropping_forward_chains_of_others_are_reported() {
        let json = br#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
            {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}},
            {"chain": {"family": "ip", "table": "filter", "name": "INPUT", "hook": "input", "policy": "drop"}},
            {"chain": {"family": "ip6", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}},
            {"chain": {"family": "inet", "table": "x", "name": "fwd", "hook": "forward", "policy": "accept"}},
            {"chain": {"family": "ip", "table": "flynn", "name": "forward", "hook": "forward", "policy": "drop"}}]}"#;
        assert_eq!(drops_in(json, "flynn"), ["ip filter FORWARD"]);
        assert!(drops_in(b"nonsense", "flynn").is_empty());
    }
}
