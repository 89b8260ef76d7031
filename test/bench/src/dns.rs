//! DNS beside dnsmasq: the example of the DNS crate, which asks both in turn.

use std::process::Command;

use anyhow::Context as _;

use crate::table::Table;

pub(crate) fn compare(rounds: usize, table: &mut Table) -> anyhow::Result<()> {
    let own = std::env::current_exe()?;
    let example = own.parent().context("this program has no folder")?.join("examples/bench_dns");
    let output = Command::new(&example).args([&rounds.clamp(3, 9).to_string(), "1"]).output();
    let output = output.with_context(|| format!("run {}: run script/bench, which builds it", example.display()))?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let figure = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(|line| line.trim().to_owned());
    let ours = figure("flynn-dns").context("no figure of ours")?;
    let theirs = figure("dnsmasq").context("no figure of dnsmasq")?;
    table.note("DNS answers per second", &ours, &format!("dnsmasq {theirs}"));
    Ok(())
}
