use proptest::prelude::*;
use serde_json::json;

use super::*;

fn data() -> Value {
    json!({
        "id": "host-1",
        "host_network": true,
        "partition": "",
        "metadata": {"flynn-controller.app_name": "shop", "plain": "p"},
        "ips": ["10.0.0.1", "10.0.0.2"],
        "none": [],
        "step_data": {"pg-password": {"Data": "s3cret"}, "cert": {"ca_cert": "A\nB"}},
        "count": 3,
    })
}

fn scope() -> Scope {
    Scope::new().function("upper", |arguments| match arguments {
        [Value::String(text)] => Ok(text.to_uppercase().into()),
        _ => Err("takes one text".into()),
    })
}

fn rendered(template: &str) -> Result<String, TemplateError> {
    Template::parse(template, &scope())?.render(&data(), &scope())
}

#[test]
fn templates_print_what_go_prints() {
    for (template, expected) in [
        ("", ""),
        ("fixed", "fixed"),
        ("{{.ID}}", "host-1"),
        ("{{ .HostNetwork }} {{.Count}}", "true 3"),
        ("{{index .Metadata \"flynn-controller.app_name\"}}", "shop"),
        ("a {{ index .Metadata `flynn-controller.app_name` }} b", "a shop b"),
        ("{{.Metadata.plain}}/{{.Metadata.none}}", "p/"),
        ("x {{- /* nothing }} */ -}} y", "xy"),
        ("x\n{{- \"-\" -}}\ny", "x-y"),
        ("{{-1}}", "-1"),
        ("{{or .Partition \"none\"}}", "none"),
        ("{{and .Partition \"none\"}}|{{and .ID \"none\"}}", "|none"),
        ("{{\"}}\"}}", "}}"),
        (r#"{{"a\"b\n"}}"#, "a\"b\n"),
        ("{{ (index .StepData \"pg-password\").Data }}", "s3cret"),
        ("{{ range $ip := .IPs }}{{ $ip }}:1111,{{ end }}", "10.0.0.1:1111,10.0.0.2:1111,"),
        ("{{ range $i, $ip := .IPs }}{{ if $i }},{{ end }}{{ $ip }}{{ end }}", "10.0.0.1,10.0.0.2"),
        ("{{ range .IPs }}<{{ . }}>{{ end }}{{ range .None }}x{{ else }}empty{{ end }}", "<10.0.0.1><10.0.0.2>empty"),
        ("{{ range $k, $v := .Metadata }}{{ $k }}={{ $v }};{{ end }}", "flynn-controller.app_name=shop;plain=p;"),
        ("{{ if eq .ID \"a\" \"host-1\" }}y{{ else }}n{{ end }}", "y"),
        ("{{ if .Nothing }}1{{ else if .ID }}2{{ else }}3{{ end }}", "2"),
        ("{{ with .Metadata }}{{ .plain }}{{ $.ID }}{{ end }}", "phost-1"),
        ("{{ $x := .ID }}{{ $x = \"b\" }}{{ $x }}{{ if true }}{{ $x = \"c\" }}{{ end }}{{ $x }}", "bc"),
        ("{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ end }}{{ $x }}", "1"),
        ("{{ .ID | upper }} {{ upper (print .ID 1) }} {{ .IPs | len }}", "HOST-1 HOST-11 2"),
        ("{{ index .IPs 1 }}{{ index .IPs 7 }}{{ not .ID }}{{ ne .Count 3 }}", "10.0.0.2falsefalse"),
        ("{ {{.ID}} }", "{ host-1 }"),
    ] {
        assert_eq!(rendered(template).as_deref(), Ok(expected), "{template}");
    }
}

#[test]
fn what_is_no_template_is_refused_with_its_reason() {
    for bad in [
        "{{.ID",
        "{{}}",
        "{{range .X}}",
        "{{\"a}}",
        "{{end}}",
        "{{else}}",
        "{{if .A}}{{else}}{{else}}{{end}}",
        "{{.A .B}}",
        "{{(.A}}",
        "{{.A)}}",
        "{{|}}",
        "{{.A | }}",
        "{{define \"x\"}}",
        "{{a, b := 1}}",
        "{{§}}",
        "{{1x}}",
        "{{\"\\q\"}}",
        "{{range .A}}{{else range .B}}{{end}}{{end}}",
        "{{/* }}",
    ] {
        assert!(Template::parse(bad, &scope()).is_err(), "{bad}");
    }
    for (bad, error) in [
        ("{{nothing}}", TemplateError::Function("nothing".into())),
        ("{{$x}}", TemplateError::Variable("$x".into())),
        ("{{$x = 1}}", TemplateError::Variable("$x".into())),
        ("{{upper 1}}", TemplateError::Call { name: "upper".into(), reason: "takes one text".into() }),
        ("{{not}}", TemplateError::Call { name: "not".into(), reason: "needs 1 arguments at least".into() }),
    ] {
        assert_eq!(rendered(bad), Err(error), "{bad}");
    }
    assert!(rendered("{{range .Count}}{{end}}").is_err());
    assert!(rendered("{{.ID | .ID}}").is_err());
}

#[test]
fn missing_fields_are_what_the_scope_says() {
    let strict = Scope::new().missing(Missing::Error { optional: &["exitstatus"] });
    let render = |template| Template::parse(template, &strict).unwrap().render(&data(), &strict);
    assert_eq!(render("{{.ExitStatus}}|{{.ID}}").as_deref(), Ok("|host-1"));
    assert_eq!(render("{{.Nope}}"), Err(TemplateError::Field("Nope".into())));
    assert_eq!(rendered("{{.Nope.Deeper}}").as_deref(), Ok(""));
}

#[test]
fn depth_and_output_are_bounded() {
    let nested = |depth| format!("{}{}", "{{if 1}}".repeat(depth), "{{end}}".repeat(depth));
    assert!(Template::parse(&nested(MAX_DEPTH), &Scope::new()).is_ok());
    assert_eq!(Template::parse(&nested(MAX_DEPTH + 1), &Scope::new()), Err(TemplateError::Depth));
    let parentheses = format!("{{{{ {}1{} }}}}", "(".repeat(10_000), ")".repeat(10_000));
    assert_eq!(Template::parse(&parentheses, &Scope::new()), Err(TemplateError::Depth));
    let chain = format!("{{{{if 1}}}}{}{{{{end}}}}", "{{else if 1}}".repeat(10_000));
    assert_eq!(Template::parse(&chain, &Scope::new()), Err(TemplateError::Depth));
    let many = json!({ "a": vec![0; 300] });
    let bomb = Template::parse(
        &format!("{}{}{}", "{{range $.A}}".repeat(6), "x".repeat(100), "{{end}}".repeat(6)),
        &Scope::new(),
    )
    .unwrap();
    assert_eq!(bomb.render(&many, &Scope::new()), Err(TemplateError::Output));
    let idle =
        Template::parse(&format!("{}{}", "{{range $.A}}".repeat(6), "{{end}}".repeat(6)), &Scope::new()).unwrap();
    assert_eq!(idle.render(&many, &Scope::new()), Err(TemplateError::Steps));
}

proptest! {
    #[test]
    fn no_text_is_too_much(text in r#"(\{\{|\}\}|-| |[.$(|)=:,"`a1]|if|range|end|else|with|index){0,24}"#) {
        if let Ok(template) = Template::parse(&text, &scope()) {
            let _ = template.render(&data(), &scope());
        }
    }

    #[test]
    fn text_without_braces_is_itself(text in "[^{}]*") {
        prop_assert_eq!(rendered(&text), Ok(text));
    }
}
