use super::*;
use flynn_types::host::Service;

fn config(service: Service) -> InitConfig {
    let port = Port { port: 80, proto: "tcp".into(), service: Some(service) };
    InitConfig { ports: vec![port], ..InitConfig::default() }
}

#[test]
fn mistakes_are_found_before_the_job_starts() {
    let service = |name: &str| Service { name: name.into(), ..Service::default() };
    let checked = |kind: &str| {
        let check = HealthCheck { kind: kind.into(), ..HealthCheck::default() };
        Service { check: Some(check), ..service("web") }
    };
    for (given, expected) in [
        (service("web"), Ok(())),
        (service(""), Err("a port's service has no name")),
        (
            Service { create: true, ..service("Web") },
            Err("service \"Web\": discoverd: service must be lowercase alphanumeric plus dash"),
        ),
        (checked("tcp"), Ok(())),
        (checked("icmp"), Err("service \"web\": unknown health check type \"icmp\": it must be tcp, http or https")),
    ] {
        assert_eq!(check(&config(given)), expected.map_err(str::to_owned));
    }
    let named = InitConfig { discoverd: vec!["http://discoverd:1111".into()], ..config(service("web")) };
    assert!(check(&named).unwrap_err().contains("discoverd"));
}

#[test]
fn a_job_without_services_has_no_thread() {
    assert!(start(&InitConfig::default()).unwrap().is_none());
}

#[test]
fn ports_are_registered_under_the_external_address() {
    let port = Port { port: 80, ..Port::default() };
    for (ip, expected) in [("", "127.0.0.1:80"), ("100.100.3.2", "100.100.3.2:80"), ("fd00::1", "[fd00::1]:80")] {
        let config = InitConfig { external_ip: ip.into(), ..InitConfig::default() };
        assert_eq!(address(&config, &port), expected);
    }
}
