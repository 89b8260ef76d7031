//! Texts of steps as templates over what earlier steps made (spec operations section 4.3).

use flynn_template::{Missing, Scope, Template};
use md5::{Digest as _, Md5};
use serde_json::{Map, Value, json};

/// What templates see.
pub(crate) struct Renderer {
    data: Value,
    scope: Scope,
}

impl Renderer {
    /// `steps`: what finished steps made, by id. `var`: variables of the environment.
    pub(crate) fn new(
        steps: Value,
        host_ips: &[String],
        singleton: bool,
        var: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        let text = |args: &[Value]| match args {
            [Value::String(text)] => Ok(text.clone()),
            _ => Err("takes one text".to_owned()),
        };
        let scope = Scope::new()
            .function("getenv", move |args| text(args).map(|name| Value::String(var(&name).unwrap_or_default())))
            .function("md5sum", move |args| text(args).map(|text| Value::String(hex::encode(Md5::digest(text)))))
            .missing(Missing::Error { optional: &[] });
        Self { data: json!({"StepData": steps, "SortedHostIPs": host_ips, "Singleton": singleton}), scope }
    }

    /// Renders every text; what is no template stays as it is, and so do templates that fail. Variables of an `env` that
    /// become empty are left out.
    pub(crate) fn fields(&self, fields: &mut Map<String, Value>) {
        for (name, value) in fields {
            self.value(value);
            if let (true, Value::Object(env)) = (name == "env", value) {
                env.retain(|_, value| value.as_str() != Some(""));
            }
        }
    }

    fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(values) => values.iter_mut().for_each(|value| self.value(value)),
            Value::Object(fields) => self.fields(fields),
            _ => {}
        }
    }

    fn text(&self, text: &str) -> String {
        let rendered = Template::parse(text, &self.scope).and_then(|it| it.render(&self.data, &self.scope));
        rendered.unwrap_or_else(|_| text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shipped_manifests_use_is_understood() {
        let steps = json!({"controller-key": {"data": "k1"}, "controller-cert": {"cert": "PEM", "pin": "p"}});
        let var = |name: &str| (name == "CLUSTER_DOMAIN").then(|| "flynn.example".to_owned());
        let renderer = Renderer::new(steps, &["10.0.0.1".into(), "10.0.0.2".into()], true, var);
        let mut step = json!({
            "domain": "controller.{{ getenv \"CLUSTER_DOMAIN\" }}",
            "env": {
                "KEY": "{{ (index .StepData \"controller-key\").Data }}",
                "PEERS": "{{ range $ip := .SortedHostIPs }}{{ $ip }}:1111,{{ end }}",
                "SINGLETON": "{{ .Singleton }}",
                "BACKEND": "{{ getenv \"FLANNEL_BACKEND\" }}",
                "SUM": "{{ md5sum \"x\" }}",
            },
            "later": ["{{ (index .StepData \"nothing\").Data }}", "{{ wrong"],
            "count": 3,
        });
        renderer.fields(step.as_object_mut().unwrap());
        let expected = json!({
            "domain": "controller.flynn.example",
            "env": {
                "KEY": "k1", "PEERS": "10.0.0.1:1111,10.0.0.2:1111,", "SINGLETON": "true",
                "SUM": "9dd4e461268c8034f5c8564e155c67a6",
            },
            "later": ["{{ (index .StepData \"nothing\").Data }}", "{{ wrong"],
            "count": 3,
        });
        assert_eq!(step, expected);
    }
}
