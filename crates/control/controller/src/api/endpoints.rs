//! Endpoints, each with a sentence for the description of the API at `/openapi.json`, which is made of them.

use std::collections::BTreeMap;

use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodFilter, get, on};
use axum::{Json, Router};
use serde_json::{Map, Value, json};

use crate::input::Checked;
use crate::shared::Shared;

/// Endpoints that are served, and described by that.
pub(super) struct Endpoints {
    router: Router<Shared>,
    described: Vec<Described>,
}

struct Described {
    method: Method,
    path: &'static str,
    summary: &'static str,
    /// What it takes, as OpenAPI has it.
    body: Option<Value>,
}

macro_rules! methods {
    ($($name:ident: $method:ident,)*) => {
        $(pub(super) fn $name<H, T>(mut self, path: &'static str, summary: &'static str, handler: H) -> Self
        where
            H: Handler<T, Shared>,
            T: 'static,
        {
            self.described.push(Described { method: Method::$method, path, summary, body: None });
            self.router = self.router.route(path, on(MethodFilter::$method, handler));
            self
        })*
    };
}

impl Endpoints {
    pub(super) fn new() -> Self {
        Self { router: Router::new(), described: Vec::new() }
    }

    methods! { get: GET, post: POST, put: PUT, delete: DELETE, }

    /// The endpoint before takes such an object.
    pub(super) fn taking<T: Checked>(mut self) -> Self {
        let last = self.described.last_mut().expect("an endpoint before");
        last.body = Some(T::described());
        self
    }

    pub(super) fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.described.extend(other.described);
        self
    }

    /// What serves them, and their description.
    pub(super) fn into_router(self) -> Router<Shared> {
        let description = self.description();
        self.router.route("/openapi.json", get(move || std::future::ready(Json(description.clone()))))
    }

    /// As OpenAPI 3.1 has it.
    fn description(&self) -> Value {
        let mut paths = BTreeMap::<&str, Map<String, Value>>::new();
        for Described { method, path, summary, body } in &self.described {
            let parameters: Vec<_> = path
                .split('/')
                .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
                .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
                .collect();
            let error = json!({ "$ref": "#/components/responses/Error" });
            let mut operation = json!({
                "summary": summary,
                "parameters": parameters,
                "responses": {
                    "200": { "description": "Done" },
                    "401": { "description": "Without a valid key or token; no body" },
                    "404": { "description": "Something that the path names does not exist; no body" },
                    "default": error,
                },
            });
            if let Some(schema) = body {
                operation["requestBody"] = json!({ "content": { "application/json": { "schema": schema } } });
            }
            paths.entry(path).or_default().insert(method.as_str().to_ascii_lowercase(), operation);
        }
        json!({
            "openapi": "3.1.0",
            "info": { "title": "Flynn controller", "version": env!("CARGO_PKG_VERSION") },
            "security": [{ "key": [] }, { "token": [] }],
            "paths": paths,
            "components": {
                "securitySchemes": {
                    "key": { "type": "http", "scheme": "basic", "description": "Any user, the key as password" },
                    "token": { "type": "http", "scheme": "bearer" },
                },
                "responses": { "Error": { "description": "What is wrong", "content": { "application/json": { "schema": error_schema() } } } },
            },
        })
    }
}

fn error_schema() -> Value {
    json!({
        "type": "object",
        "required": ["code", "message", "retry"],
        "properties": {
            "code": { "type": "string" },
            "message": { "type": "string" },
            "detail": {},
            "retry": { "type": "boolean", "description": "Whether the same request may succeed later" },
        },
    })
}
