//! Writing a template.

use serde_json::Value;

use crate::parse::{Base, Command, Node, Operand, Pipeline};
use crate::{MAX_OUTPUT, MAX_STEPS, Missing, Scope, TemplateError};

pub(crate) const BUILT_IN: [&str; 8] = ["and", "eq", "index", "len", "ne", "not", "or", "print"];

pub(crate) fn render(nodes: &[Node], data: &Value, scope: &Scope) -> Result<String, TemplateError> {
    let mut run = Run { scope, variables: vec![("$".to_owned(), data.clone())], out: String::new(), steps: 0 };
    run.nodes(nodes, data)?;
    Ok(run.out)
}

struct Run<'a> {
    scope: &'a Scope,
    /// The innermost last; a block takes its own away.
    variables: Vec<(String, Value)>,
    out: String,
    steps: usize,
}

impl Run<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<(), TemplateError> {
        let outer = self.variables.len();
        for node in nodes {
            self.node(node, dot)?;
        }
        self.variables.truncate(outer);
        Ok(())
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<(), TemplateError> {
        self.step()?;
        let outer = self.variables.len();
        match node {
            Node::Text(text) => self.write(text)?,
            Node::Action(pipeline) => {
                let value = self.assigned(pipeline, dot)?;
                if pipeline.variables.is_empty() {
                    self.write(&text(&value))?;
                }
                return Ok(()); // what it declared lives on in its block
            }
            Node::If(condition, body, otherwise) => {
                let is_true = truth(&self.assigned(condition, dot)?);
                self.nodes(if is_true { body } else { otherwise }, dot)?;
            }
            Node::With(pipeline, body, otherwise) => {
                let value = self.assigned(pipeline, dot)?;
                if truth(&value) {
                    self.nodes(body, &value)?;
                } else {
                    self.nodes(otherwise, dot)?;
                }
            }
            Node::Range(pipeline, body, otherwise) => self.range(pipeline, body, otherwise, dot)?,
        }
        self.variables.truncate(outer);
        Ok(())
    }

    fn range(
        &mut self,
        pipeline: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<(), TemplateError> {
        let items: Vec<(Value, Value)> = match self.value(pipeline, dot)? {
            Value::Array(items) => items.into_iter().enumerate().map(|(at, item)| (at.into(), item)).collect(),
            Value::Object(items) => items.into_iter().map(|(key, item)| (key.into(), item)).collect(),
            Value::Null => Vec::new(),
            other => return Err(refused("range", format!("cannot go over {other}"))),
        };
        if items.is_empty() {
            return self.nodes(otherwise, dot);
        }
        for (key, item) in items {
            self.step()?;
            let outer = self.variables.len();
            match pipeline.variables.as_slice() {
                [] => {}
                [element] => self.set(element, item.clone(), pipeline.declares)?,
                [index, element, ..] => {
                    self.set(index, key, pipeline.declares)?;
                    self.set(element, item.clone(), pipeline.declares)?;
                }
            }
            self.nodes(body, &item)?;
            self.variables.truncate(outer);
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: Value, declares: bool) -> Result<(), TemplateError> {
        if declares {
            self.variables.push((name.to_owned(), value));
            return Ok(());
        }
        let known = self.variables.iter_mut().rev().find(|(known, _)| known == name);
        known.ok_or_else(|| TemplateError::Variable(name.to_owned()))?.1 = value;
        Ok(())
    }

    /// The pipeline's value, which its variable gets too.
    fn assigned(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let value = self.value(pipeline, dot)?;
        match pipeline.variables.as_slice() {
            [] => {}
            [name] => self.set(name, value.clone(), pipeline.declares)?,
            _ => return Err(refused("assignment", "two variables are for range only".into())),
        }
        Ok(value)
    }

    fn value(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let mut piped = None;
        for command in &pipeline.commands {
            piped = Some(match command {
                Command::Operand(operand) if piped.is_none() => self.operand(operand, dot)?,
                Command::Operand(_) => return Err(refused("pipeline", "a value cannot take an argument".into())),
                Command::Call(name, arguments) => {
                    let mut values = arguments.iter().map(|it| self.operand(it, dot)).collect::<Result<Vec<_>, _>>()?;
                    values.extend(piped);
                    self.call(name, &values)?
                }
            });
        }
        Ok(piped.unwrap_or_default())
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, TemplateError> {
        let mut value = match &operand.base {
            Base::Dot => dot.clone(),
            Base::Literal(value) => value.clone(),
            Base::Function(name) => self.call(name, &[])?,
            Base::Group(pipeline) => self.value(pipeline, dot)?,
            Base::Variable(name) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                known.map(|(_, value)| value.clone()).ok_or_else(|| TemplateError::Variable(name.clone()))?
            }
        };
        for name in &operand.fields {
            value = self.field(value, name)?;
        }
        Ok(value)
    }

    fn field(&self, value: Value, name: &str) -> Result<Value, TemplateError> {
        let found = match value {
            Value::Object(mut fields) => {
                let wanted = letters(name);
                let key = if fields.contains_key(name) {
                    Some(name.to_owned())
                } else {
                    fields.keys().find(|key| letters(key) == wanted).cloned()
                };
                key.and_then(|key| fields.remove(&key))
            }
            _ => None,
        };
        match (found, self.scope.missing) {
            (Some(value), _) => Ok(value),
            (None, Missing::Error { optional }) if !optional.contains(&&*letters(name)) => {
                Err(TemplateError::Field(name.to_owned()))
            }
            (None, _) => Ok(Value::Null),
        }
    }

    fn call(&self, name: &str, arguments: &[Value]) -> Result<Value, TemplateError> {
        if let Some(function) = self.scope.functions.get(name) {
            return function(arguments).map_err(|reason| refused(name, reason));
        }
        let few = |least: usize| {
            let enough = arguments.len() >= least;
            if enough { Ok(()) } else { Err(refused(name, format!("needs {least} arguments at least"))) }
        };
        match name {
            "and" | "or" => {
                few(1)?;
                let decides = |value: &&Value| truth(value) == (name == "or");
                Ok(arguments.iter().find(decides).or(arguments.last()).cloned().unwrap_or_default())
            }
            "not" => few(1).map(|()| (!truth(&arguments[0])).into()),
            "eq" => few(2).map(|()| arguments[1..].contains(&arguments[0]).into()),
            "ne" => few(2).map(|()| (arguments[0] != arguments[1]).into()),
            "print" => Ok(arguments.iter().map(text).collect::<String>().into()),
            "len" => few(1).map(|()| match &arguments[0] {
                Value::String(text) => text.len().into(),
                Value::Array(items) => items.len().into(),
                Value::Object(items) => items.len().into(),
                _ => 0.into(),
            }),
            "index" => few(1).map(|()| arguments[1..].iter().fold(arguments[0].clone(), index)),
            _ => Err(TemplateError::Function(name.to_owned())),
        }
    }

    /// Counts what is done, so that ranges in ranges end.
    fn step(&mut self) -> Result<(), TemplateError> {
        self.steps += 1;
        if self.steps > MAX_STEPS { Err(TemplateError::Steps) } else { Ok(()) }
    }

    fn write(&mut self, text: &str) -> Result<(), TemplateError> {
        if self.out.len() + text.len() > MAX_OUTPUT {
            return Err(TemplateError::Output);
        }
        self.out.push_str(text);
        Ok(())
    }
}

fn refused(name: &str, reason: String) -> TemplateError {
    TemplateError::Call { name: name.to_owned(), reason }
}

/// Element of a map or list; nothing where there is none, as in a Go map.
fn index(value: Value, key: &Value) -> Value {
    match (value, key) {
        (Value::Object(mut fields), key) => fields.remove(&text(key)).unwrap_or_default(),
        (Value::Array(mut items), Value::Number(at)) => {
            let at = at.as_u64().and_then(|at| usize::try_from(at).ok()).filter(|at| *at < items.len());
            at.map(|at| items.swap_remove(at)).unwrap_or_default()
        }
        _ => Value::Null,
    }
}

/// Go's names are those of the JSON, written together and with capitals: `.HostNetwork` is `host_network`.
fn letters(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
