//! What a program says of itself when it registers (spec discoverd-and-network section 9.2).

use std::collections::BTreeMap;

use flynn_types::discoverd::Instance;

/// Variables that become metadata of an instance.
const META: [&str; 5] = ["FLYNN_APP_ID", "FLYNN_APP_NAME", "FLYNN_RELEASE_ID", "FLYNN_PROCESS_TYPE", "FLYNN_JOB_ID"];

/// An instance at `addr`: `:port` gets the variable `EXTERNAL_IP` in front, an empty protocol is `tcp`, and what the
/// platform told this program about itself becomes metadata.
pub fn own_instance(proto: &str, addr: &str, vars: impl Fn(&str) -> Option<String>) -> Instance {
    let proto = if proto.is_empty() { "tcp" } else { proto };
    let ip = if addr.starts_with(':') { vars("EXTERNAL_IP").unwrap_or_default() } else { String::new() };
    let set = |name: &str| vars(name).filter(|value| !value.is_empty()).map(|value| (name.to_owned(), value));
    let meta: BTreeMap<String, String> = META.iter().filter_map(|name| set(name)).collect();
    Instance::new(proto, &format!("{ip}{addr}"), meta)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_completed_and_the_platforms_variables_become_metadata() {
        let vars = |name: &str| match name {
            "EXTERNAL_IP" => Some("10.0.0.1".to_owned()),
            "FLYNN_JOB_ID" => Some("host1-1".to_owned()),
            "FLYNN_APP_ID" => Some(String::new()),
            "SECRET" => Some("x".to_owned()),
            _ => None,
        };
        let instance = own_instance("", ":80", vars);
        assert_eq!((instance.proto.as_str(), instance.addr.as_str()), ("tcp", "10.0.0.1:80"));
        assert_eq!(instance.meta, BTreeMap::from([("FLYNN_JOB_ID".to_owned(), "host1-1".to_owned())]));
        assert_eq!(instance.validate(), Ok(()));
        assert_eq!(own_instance("http", "10.1.1.3:80", vars).id, "4997de81c126698ed54e71920861b82d");
    }
}
