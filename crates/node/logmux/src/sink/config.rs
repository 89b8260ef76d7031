//! A sink's configuration, checked.

use flynn_template::{Scope, Template};
use flynn_types::host::{LogAggregatorConfig, SinkInfo, SinkKind, SyslogConfig};

use crate::config::SinkError;

const SYSLOG_PORT: u16 = 514;
const SYSLOG_TLS_PORT: u16 = 514;

/// Where and how messages are sent.
#[derive(Clone, Debug)]
pub(super) enum Target {
    Aggregator { addr: String },
    Syslog(Syslog),
}

#[derive(Clone, Debug)]
pub(super) struct Syslog {
    pub(super) transport: Transport,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) template: Option<Template>,
    pub(super) use_ids: bool,
    pub(super) structured_data: bool,
    pub(super) format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Tls { verify: bool },
    Udp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Rfc6587,
    Newline,
    PrefixedNewline,
}

impl Target {
    pub(super) fn of(info: &SinkInfo) -> Result<Self, SinkError> {
        let error = |reason: String| SinkError::Config { id: info.id.clone(), reason };
        let config = info.config.as_ref().map_or("{}", |config| config.get());
        match &info.kind {
            SinkKind::LogAggregator => {
                let config: LogAggregatorConfig = serde_json::from_str(config).map_err(|err| error(err.to_string()))?;
                if config
                    .addr
                    .rsplit_once(':')
                    .is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err())
                {
                    return Err(error(format!("addr {:?} is not host:port", config.addr)));
                }
                Ok(Self::Aggregator { addr: config.addr })
            }
            SinkKind::Syslog => {
                let config: SyslogConfig = serde_json::from_str(config).map_err(|err| error(err.to_string()))?;
                Syslog::of(&config).map(Self::Syslog).map_err(error)
            }
            SinkKind::Other(_) | SinkKind::Unset => Err(SinkError::Kind(info.kind.as_str().to_owned())),
        }
    }
}

impl Syslog {
    fn of(config: &SyslogConfig) -> Result<Self, String> {
        let url = url::Url::parse(&config.url).map_err(|err| format!("url {:?}: {err}", config.url))?;
        let (transport, default_port) = match url.scheme() {
            "syslog" => (Transport::Tcp, SYSLOG_PORT),
            "syslog+tls" => (Transport::Tls { verify: !config.insecure }, SYSLOG_TLS_PORT),
            "syslog+udp" => (Transport::Udp, SYSLOG_PORT),
            scheme => return Err(format!("unknown protocol {scheme}")),
        };
        let host = url
            .host_str()
            .filter(|host| !host.is_empty())
            .ok_or_else(|| format!("url {:?} names no host", config.url))?;
        let format = match config.format.as_str() {
            "" | "rfc6587" => Format::Rfc6587,
            "newline" => Format::Newline,
            "prefixed_newline" => Format::PrefixedNewline,
            format => return Err(format!("unknown format {format}")),
        };
        let template = match config.template.as_str() {
            "" => None,
            text => Some(Template::parse(text, &Scope::new()).map_err(|err| err.to_string())?),
        };
        Ok(Self {
            transport,
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: url.port().unwrap_or(default_port),
            template,
            use_ids: config.use_ids,
            structured_data: config.structured_data,
            format,
        })
    }
}
