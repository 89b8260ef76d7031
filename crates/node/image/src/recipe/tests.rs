use super::*;

fn problem(text: &str) -> String {
    match Recipe::parse(text, Path::new("x.toml")).unwrap_err() {
        RecipeError::Parse { err, .. } => err.message().to_owned(),
        err => err.to_string(),
    }
}

#[test]
fn mistakes_in_a_recipe_are_named() {
    let file = |rest: &str| format!("[[layer]]\n[[layer.files]]\n{rest}");
    for (text, expected) in [
        (String::new(), "recipe x.toml: it has neither a base nor a layer"),
        ("[[layer]]\n".into(), "a layer is empty"),
        ("colour = 1\n".into(), "unknown field `colour`"),
        (file("path = \"/a\"\n"), "file /a needs exactly one of content, source, program and package"),
        (file("path = \"/a\"\ncontent = \"\"\nsource = \"x\"\n"), "needs exactly one of"),
        (file("path = \"/a\"\npackage = \"busybox\"\n"), "needs package and from together"),
        (file("path = \"/a\"\npackage = \"-rf\"\nfrom = \"/a\"\n"), "\"-rf\" is no name of a Debian package"),
        (file("path = \"/a/../b\"\ncontent = \"\"\n"), "path \"/a/../b\" is not clean"),
        (file("path = \"a\"\ncontent = \"\"\n"), "path \"a\" is not absolute"),
        (file("path = \"/a\"\nsource = \"../secret\"\n"), "path \"/../secret\" is not clean"),
        (file("path = \"/a\"\ncontent = \"\"\nmode = \"9\"\n"), "mode \"9\" is no octal number"),
        ("[[layer]]\napplets = \"/bin/b\"\n".into(), "it is not among the files"),
        ("[[layer]]\n[layer.bootstrap]\nvariant = \"all\"\n".into(), "variant \"all\" is not one of"),
        (
            "[[layer]]\n[layer.bootstrap]\nvariant = \"apt\"\nremove = [\"/a;reboot\"]\n".into(),
            "path \"/a;reboot\" has unusual characters",
        ),
        (
            "[[layer]]\napplets = \"/b\"\n[layer.bootstrap]\nvariant = \"apt\"\n".into(),
            "either bootstrapped or put together",
        ),
    ] {
        let got = problem(&text);
        assert!(got.contains(expected), "{text}\n gave {got:?}, not {expected:?}");
    }
}

#[test]
fn names_with_path_characters_are_unknown_images() {
    for name in ["../etc/passwd", "", "a/b", "."] {
        let err = Recipe::load(Path::new("/"), name).unwrap_err();
        assert!(matches!(err, RecipeError::Unknown { .. }), "{name:?}: {err}");
    }
}
