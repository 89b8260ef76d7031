//! Hosts, domains and paths: no panic, a canonical name stays as it is, what is mounted is found under its own name, and
//! nothing is left of what was removed.
#![no_main]

use std::sync::Arc;

use flynn_router::table::{DEFAULT_PORTS, Mount, Table, canonical, host_name};

libfuzzer_sys::fuzz_target!(|input: (Vec<(&str, &str)>, &str, &str)| {
    let (mounts, host, path) = input;
    let name = host_name(host);
    let _ = canonical(&name);
    let mut table = Table::default();
    for (index, (domain, path)) in mounts.iter().take(50).enumerate() {
        let (domain, path) = (canonical(domain), format!("/{path}/"));
        assert!(domain.bytes().all(|byte| !byte.is_ascii_uppercase()));
        let id: Arc<str> = index.to_string().into();
        let mount = |path: &str| Mount { port: DEFAULT_PORTS, domain: (*domain).into(), path: path.into() };
        table.set(&format!("root {index}").into(), mount("/"), index);
        table.set(&id, mount(&path), index);
        if !path.contains('%') && !domain.starts_with('*') {
            assert_eq!(table.find(DEFAULT_PORTS, &domain, &path), Some(&index));
        }
    }
    let _ = table.find(DEFAULT_PORTS, &name, path);
    let ids: Vec<_> = table.ids().cloned().collect();
    assert_eq!(ids.len(), table.len());
    for id in ids {
        table.remove(&id);
    }
    assert!(table.is_empty());
    assert_eq!(table.find(DEFAULT_PORTS, &name, path), None);
});
