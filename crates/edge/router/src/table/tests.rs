use super::*;

/// A table of `domain/path` texts, each route being its own text, on the default ports.
fn table(routes: &[&'static str]) -> Table<&'static str> {
    let mut table = Table::default();
    for route in routes {
        table.set(&(*route).into(), mount(DEFAULT_PORTS, route), *route);
    }
    table
}

fn mount(port: u16, route: &str) -> Mount {
    let (domain, path) = route.split_once('/').unwrap_or((route, ""));
    Mount { port, domain: canonical(domain).into(), path: format!("/{path}").into() }
}

fn check(table: &Table<&'static str>, expected: &[(&str, Option<&str>)]) {
    for (request, route) in expected {
        let (host, path) = request.split_once('/').unwrap_or((request, ""));
        let found = table.find(DEFAULT_PORTS, &host_name(host), &format!("/{path}"));
        assert_eq!(found.copied(), *route, "{request}");
    }
}

#[test]
fn a2_exact_names_win_over_wildcards() {
    let table = table(&["foo.bar", "*.foo.bar", "dev.foo.bar"]);
    let flynn = ("flynn.foo.bar", Some("*.foo.bar"));
    check(&table, &[("foo.bar", Some("foo.bar")), flynn, ("dev.foo.bar", Some("dev.foo.bar"))]);
}

#[test]
fn a3_the_catch_all_takes_the_rest() {
    let table = table(&["*", "*.bar"]);
    check(&table, &[("foo", Some("*")), ("example.com", Some("*")), ("foo.bar", Some("*.bar"))]);
}

#[test]
fn a4_a_wildcard_matches_its_own_name_and_four_labels_more() {
    let yes = Some("*.example.com");
    check(
        &table(&["*.example.com"]),
        &[
            ("example.com", yes),
            ("a.example.com", yes),
            ("a.b.c.d.example.com", yes),
            ("a.b.c.d.e.example.com", None),
            ("xexample.com", None),
        ],
    );
}

#[test]
fn a5_a6_a13_spelling_of_hosts_does_not_matter() {
    let yes = Some("exaMple.com");
    let spellings = ["Example.com", "ExamPle.cOm", "example.com:80", "example.com:443", "example.com."];
    check(&table(&["exaMple.com"]), &spellings.map(|host| (host, yes)));
}

#[test]
fn a7_a10_paths_match_by_whole_segments() {
    let table = table(&["foo.bar/", "foo.bar/2/", "foo.bar/3/", "foo.bar/a/", "foo.bar/a/b/"]);
    check(
        &table,
        &[
            ("foo.bar/", Some("foo.bar/")),
            ("foo.bar/2", Some("foo.bar/2/")),
            ("foo.bar/2/", Some("foo.bar/2/")),
            ("foo.bar/3/x", Some("foo.bar/3/")),
            ("foo.bar/ab", Some("foo.bar/")),
            ("foo.bar/A/", Some("foo.bar/")),
            ("foo.bar/a%2Fb", Some("foo.bar/a/b/")),
            ("foo.bar//a//x", Some("foo.bar/a/")),
            ("foo.bar/a/../b", Some("foo.bar/a/")),
        ],
    );
}

#[test]
fn a12_a_domain_that_matched_is_final() {
    let mut table = table(&["*", "*/x/", "foo.bar"]);
    check(&table, &[("foo.bar/x/", Some("foo.bar")), ("other/x/", Some("*/x/"))]);
    table.remove("foo.bar");
    check(&table, &[("foo.bar/x/", Some("*/x/"))]);
}

#[test]
fn a15_ports_are_worlds_of_their_own() {
    let mut table = table(&["a.b"]);
    table.set(&"other".into(), mount(8080, "a.b"), "other");
    assert_eq!(table.find(DEFAULT_PORTS, "a.b", "/"), Some(&"a.b"));
    assert_eq!(table.find(8080, "a.b", "/"), Some(&"other"));
    assert_eq!(table.find(8081, "a.b", "/"), None);
}

#[test]
fn a18_a_route_with_capitals_goes_when_it_is_removed() {
    let mut table = table(&["Foo.Example.com"]);
    table.remove("Foo.Example.com");
    check(&table, &[("foo.example.com", None)]);
    assert!(table.is_empty() && table.ports[&DEFAULT_PORTS].exact.is_empty());
}

#[test]
fn a19_a_place_that_was_taken_over_stays_with_its_new_route() {
    let mut table = table(&["a.b"]);
    table.set(&"newer".into(), mount(DEFAULT_PORTS, "a.b"), "newer");
    table.remove("a.b");
    check(&table, &[("a.b", Some("newer"))]);
}

#[test]
fn j2_a_sub_path_waits_for_its_domain() {
    let mut table = table(&["*", "a.b/2/"]);
    check(&table, &[("a.b/2/", Some("*"))]);
    table.set(&"root".into(), mount(DEFAULT_PORTS, "a.b"), "root");
    check(&table, &[("a.b/2/", Some("a.b/2/")), ("a.b/", Some("root"))]);
}

#[test]
fn a_route_that_moves_leaves_its_former_place() {
    let mut table = table(&["a.b", "c.d"]);
    table.set(&"c.d".into(), mount(DEFAULT_PORTS, "a.b/x/"), "moved");
    check(&table, &[("c.d", None), ("a.b/x/", Some("moved")), ("a.b/", Some("a.b"))]);
    assert_eq!(table.len(), 2);
}

proptest::proptest! {
    #[test]
    fn no_host_or_path_upsets_a_table(host in ".*", path in ".*") {
        let table = table(&["*", "*/a/", "a.b", "*.c"]);
        proptest::prop_assert!(table.find(DEFAULT_PORTS, &host_name(&host), &path).is_some());
    }
}
