//! Options and variables of the router (spec router section 2).

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use flynn_router::{CookieKey, DefaultCertificate, HttpPort, Limits, Settings};
use ipnet::IpNet;
use tracing::warn;

use super::acme::AcmeOptions;
use super::routes::RouteOptions;

/// Options of the router; what they leave open, variables say.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) routes: RouteOptions,
    /// Plain HTTP port; DEFAULT_HTTP_PORT wins, 0 there disables it
    #[arg(long, default_value_t = 8080)]
    http_port: u16,
    /// HTTPS port; DEFAULT_HTTPS_PORT wins
    #[arg(long, default_value_t = 4433)]
    https_port: u16,
    /// Address of TCP routes [default: LISTEN_IP]
    #[arg(long)]
    tcp_ip: Option<IpAddr>,
    /// Accepted, as existing releases say it: ports of TCP routes are opened as routes come
    #[arg(long, hide = true)]
    tcp_range_start: Option<u16>,
    /// Like the other end of the range
    #[arg(long, hide = true)]
    tcp_range_end: Option<u16>,
    /// PEM file of the default certificate's chain; wins over TLSCERT
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM file of the default certificate's key; wins over TLSKEY
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Port of status and metrics [default: PORT, else 5000]
    #[arg(long)]
    api_port: Option<u16>,
    /// HTML file shown while a service cannot answer; wins over ERROR_503_PAGE_URL
    #[arg(long, value_name = "FILE")]
    pub(crate) unavailable_page: Option<PathBuf>,
    /// Threads that serve connections [default: one per core]
    #[arg(long)]
    workers: Option<usize>,
    /// Write a line for each request, as DEBUG does
    #[arg(long)]
    access_log: bool,
    /// Seconds that requests may still take when the router ends
    #[arg(long, default_value_t = 20, value_name = "SECONDS")]
    drain_seconds: u64,
    /// Connections that one client may have, by its address [default: any number]
    #[arg(long, value_name = "COUNT")]
    connections_per_client: Option<u32>,
    /// Seconds that a client may be waited for until another KiB of its request's body is there
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    body_pause_seconds: u64,
    /// Seconds for which a client may take nothing of its response
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    response_pause_seconds: u64,
    /// Seconds that requests and tunnels may still take when another process has taken over
    #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
    tunnel_drain_seconds: u64,
    /// Seconds that a worker may stand still until the process replaces itself; 0 is for ever
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    stall_seconds: u64,
    /// Seconds without a sign of life after which a backend where a request waits is asked whether it hangs; 0 is never
    #[arg(long, default_value_t = 5, value_name = "SECONDS")]
    backend_silence_seconds: u64,
    /// Socket at which the next router takes the listening sockets over, and this one those of a router that is there
    #[arg(long, value_name = "PATH")]
    pub(crate) handover: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) acme: AcmeOptions,
}

impl Options {
    /// What options and variables say together.
    pub(crate) fn settings(&self, vars: &impl Fn(&str) -> Option<String>) -> anyhow::Result<Settings> {
        let listen = vars("LISTEN_IP").map(|text| text.parse().context("LISTEN_IP is no address")).transpose()?;
        if vars("LEGACY_TLS").is_some() {
            warn!("LEGACY_TLS is ignored: TLS 1.2 is the oldest version there is");
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Settings {
            listen,
            listen_tcp: self.tcp_ip.or(listen),
            http: self.ports(vars)?,
            api: Some(match (self.api_port, vars("PORT")) {
                (Some(port), _) => port,
                (None, Some(text)) => number("PORT", &text)?,
                (None, None) => 5000,
            }),
            proxy_protocol: vars("PROXY_PROTOCOL").is_some_and(|text| text == "true"),
            trusted_proxies: trusted_proxies(vars)?,
            cookie_key: CookieKey::from_base64(&vars("COOKIE_KEY").unwrap_or_default())?,
            default_certificate: self.default_certificate(vars)?,
            unavailable_page: None,
            workers: self.workers.unwrap_or(cores),
            access_log: self.access_log || vars("DEBUG").is_some(),
            limits: Limits {
                drain: Duration::from_secs(self.drain_seconds),
                connections_per_client: self.connections_per_client,
                body_pause: Duration::from_secs(self.body_pause_seconds),
                response_pause: Duration::from_secs(self.response_pause_seconds),
                backend_silence: Duration::from_secs(self.backend_silence_seconds),
                worker_stall: Duration::from_secs(self.stall_seconds),
                drain_handed_over: Duration::from_secs(self.tunnel_drain_seconds),
                ..Limits::default()
            },
        })
    }

    /// The default ports, HTTP first, then the additional ones.
    fn ports(&self, vars: &impl Fn(&str) -> Option<String>) -> anyhow::Result<Vec<HttpPort>> {
        let default = |name: &str, port| vars(name).map_or(Ok(port), |text| number(name, &text));
        let http = default("DEFAULT_HTTP_PORT", self.http_port)?;
        let https = default("DEFAULT_HTTPS_PORT", self.https_port)?;
        if https == 0 {
            bail!("DEFAULT_HTTPS_PORT is 0: HTTPS cannot be disabled");
        }
        let mut ports = vec![HttpPort { port: https, tls: true, default: true }];
        if http != 0 {
            ports.insert(0, HttpPort { port: http, tls: false, default: true });
        }
        for (name, tls) in [("ADDITIONAL_HTTP_PORTS", false), ("ADDITIONAL_HTTPS_PORTS", true)] {
            for text in vars(name).iter().flat_map(|list| list.split(',')) {
                ports.push(HttpPort { port: number(name, text)?, tls, default: false });
            }
        }
        Ok(ports)
    }

    fn default_certificate(
        &self,
        vars: &impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Option<DefaultCertificate>> {
        if let (Some(chain), Some(key)) = (&self.tls_cert, &self.tls_key) {
            let (chain_text, key_text) = (text(chain)?, text(key)?);
            let pair = DefaultCertificate::from_pem(&chain_text, &key_text);
            return pair.with_context(|| format!("use {} and {}", chain.display(), key.display())).map(Some);
        }
        let (Some(chain), Some(key)) = (vars("TLSCERT"), vars("TLSKEY")) else { return Ok(None) };
        DefaultCertificate::from_pem(&chain, &key).context("use TLSCERT and TLSKEY").map(Some)
    }
}

/// Networks and single addresses, commas between.
fn trusted_proxies(vars: &impl Fn(&str) -> Option<String>) -> anyhow::Result<Vec<IpNet>> {
    let list = vars("TRUSTED_PROXIES").unwrap_or_default();
    let network = |text: &str| {
        let one = text.parse::<IpAddr>().map(IpNet::from);
        one.or_else(|_| text.parse()).with_context(|| format!("TRUSTED_PROXIES has {text:?}, which is no network"))
    };
    list.split(',').map(str::trim).filter(|text| !text.is_empty()).map(network).collect()
}

fn number(name: &str, text: &str) -> anyhow::Result<u16> {
    text.parse().with_context(|| format!("{name} is {text:?}, it must be a port"))
}

fn text(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    /// What these arguments and variables say; a cookie key is there unless it is given.
    fn settings(arguments: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<Settings> {
        let arguments = ["router", "--routes", "r.json"].iter().chain(arguments);
        let options = Command::try_parse_from(arguments)?.options;
        let key = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, [7; 32]);
        options.settings(&|name| {
            let given = variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
            given.or_else(|| (name == "COOKIE_KEY").then(|| key.clone())).filter(|value| !value.is_empty())
        })
    }

    fn error(variables: &[(&str, &str)]) -> String {
        format!("{:#}", settings(&[], variables).expect_err("this is a mistake"))
    }

    #[test]
    fn l1_l2_l4_l5_mistakes_name_their_variable() {
        for (name, value) in [
            ("COOKIE_KEY", ""),
            ("COOKIE_KEY", "???"),
            ("COOKIE_KEY", "AAAA"),
            ("DEFAULT_HTTPS_PORT", "0"),
            ("DEFAULT_HTTPS_PORT", "x"),
            ("DEFAULT_HTTP_PORT", "x"),
            ("ADDITIONAL_HTTP_PORTS", "x"),
            ("ADDITIONAL_HTTPS_PORTS", "1,x"),
            ("LISTEN_IP", "x"),
            ("PORT", "x"),
            ("TRUSTED_PROXIES", "10.0.0.0/8,x"),
        ] {
            assert!(error(&[(name, value)]).contains(name), "{name}={value}");
        }
        assert!(error(&[("TLSCERT", "x"), ("TLSKEY", "y")]).contains("TLSCERT and TLSKEY"));
        assert!(settings(&[], &[("TLSCERT", "x")]).expect("half a pair is none").default_certificate.is_none());
    }

    #[test]
    fn l2_l3_ports_come_from_options_and_variables() {
        let ports = |arguments: &[&str], variables: &[(&str, &str)]| {
            let settings = settings(arguments, variables).expect("no mistake");
            settings.http.iter().map(|http| (http.port, http.tls, http.default)).collect::<Vec<_>>()
        };
        assert_eq!(ports(&[], &[]), [(8080, false, true), (4433, true, true)]);
        assert_eq!(ports(&["--http-port", "80"], &[("DEFAULT_HTTP_PORT", "8000")])[0].0, 8000);
        assert_eq!(ports(&[], &[("DEFAULT_HTTP_PORT", "0")]), [(4433, true, true)]);
        let extra = ports(&[], &[("ADDITIONAL_HTTP_PORTS", "81,82"), ("ADDITIONAL_HTTPS_PORTS", "444")]);
        assert_eq!(extra[2..], [(81, false, false), (82, false, false), (444, true, false)]);
    }

    #[test]
    fn proxies_are_networks_and_addresses() {
        let trusted = settings(&[], &[("TRUSTED_PROXIES", "10.0.0.0/8, 192.168.1.1,fd00::/8")]).expect("no mistake");
        let networks: Vec<_> = trusted.trusted_proxies.iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["10.0.0.0/8", "192.168.1.1/32", "fd00::/8"]);
    }

    #[test]
    fn l6_the_apis_port_is_found() {
        let api = |arguments: &[&str], variables: &[(&str, &str)]| settings(arguments, variables).expect("right").api;
        assert_eq!(api(&[], &[]), Some(5000));
        assert_eq!(api(&[], &[("PORT", "1")]), Some(1));
        assert_eq!(api(&["--api-port", "2"], &[("PORT", "1")]), Some(2));
    }
}
