//! docs/runtime-spec.md names tests; they must be there.

use std::fs;

use tests::project;

/// Where a test that the table calls `path::name` stands: a file of the end-to-end tests, or a module of a tool.
fn source(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split("::").collect();
    let below = parts.join("/");
    let (package, rest) = below.split_once('/').unwrap_or((&below, ""));
    let places = [
        format!("tests/tests/{below}.rs"),
        format!("tests/tests/{below}/main.rs"),
        format!("{package}/src/{rest}.rs"),
        format!("{package}/src/{rest}/mod.rs"),
    ];
    places.iter().find_map(|place| fs::read_to_string(project().join(place)).ok())
}

#[test]
fn every_test_of_the_table_is_there() {
    let table = fs::read_to_string(project().join("docs/runtime-spec.md")).unwrap();
    let mut count = 0;
    for name in table.split('`').skip(1).step_by(2).filter(|name| name.contains("::")) {
        let (path, test) = name.rsplit_once("::").unwrap();
        let text = source(path).unwrap_or_else(|| panic!("no file for {name}"));
        assert!(text.contains(&format!("fn {test}(")), "{name} is not there");
        count += 1;
    }
    assert!(count > 80, "the table is read: {count}");
}
