//! The HTTP API.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use flynn_http::{Failure, with_text_fallbacks};
use flynn_types::error::{ApiError, with_causes};
use serde::{Deserialize, Serialize};

use super::provision::{Credentials, ResourceId, create, remove};
use super::{Database, ProviderError};
use crate::sql::SqlError;

pub(super) fn router(database: Arc<Database>) -> Router {
    let routes = Router::new().route("/databases", post(provision).delete(deprovision)).route("/ping", get(ping));
    with_text_fallbacks(routes).with_state(database)
}

/// A resource for the controller.
#[derive(Serialize)]
struct Resource {
    id: String,
    env: Env,
}

#[derive(Serialize)]
struct Env {
    #[serde(rename = "FLYNN_POSTGRES")]
    service: String,
    #[serde(rename = "PGHOST")]
    host: String,
    #[serde(rename = "PGUSER")]
    user: String,
    #[serde(rename = "PGPASSWORD")]
    password: String,
    #[serde(rename = "PGDATABASE")]
    database: String,
    #[serde(rename = "DATABASE_URL")]
    url: String,
}

impl Resource {
    fn new(service: &str, credentials: Credentials) -> Self {
        let id = credentials.id().to_string();
        let Credentials { user, password, database } = credentials;
        let host = format!("leader.{service}.discoverd");
        let url = format!("postgres://{user}:{password}@{host}:5432/{database}");
        Self { id, env: Env { service: service.to_owned(), host, user, password, database, url } }
    }
}

async fn provision(State(database): State<Arc<Database>>) -> Result<Json<Resource>, Failure> {
    // In a task of its own: a client that hangs up must not leave half a resource.
    let resource = tokio::spawn(async move {
        let mut sql = database.connect().await?;
        let credentials = Credentials::random();
        create(&mut sql, &credentials).await?;
        sql.close().await;
        Ok::<_, ProviderError>(Resource::new(&database.service, credentials))
    });
    Ok(Json(resource.await.map_err(|err| failure(&err.to_string()))??))
}

#[derive(Deserialize)]
struct Which {
    #[serde(default)]
    id: String,
}

async fn deprovision(State(database): State<Arc<Database>>, Query(which): Query<Which>) -> Result<(), Failure> {
    let id = ResourceId::parse(&which.id).ok_or_else(|| ApiError::validation("id", "is invalid"))?;
    let removal = tokio::spawn(async move {
        let mut sql = database.connect().await?;
        remove(&mut sql, &id).await?;
        sql.close().await;
        Ok::<_, ProviderError>(())
    });
    Ok(removal.await.map_err(|err| failure(&err.to_string()))??)
}

async fn ping(State(database): State<Arc<Database>>) -> Result<(), Failure> {
    let mut sql = database.connect().await.map_err(|err| failure(&with_causes(&err)))?;
    sql.execute("SELECT 1").await.map_err(|err| failure(&err.to_string()))?;
    sql.close().await;
    Ok(())
}

fn failure(text: &str) -> Failure {
    ApiError::internal(text).into()
}

/// A database that is being taken over, or a lost answer, is worth another request.
impl From<ProviderError> for Failure {
    fn from(err: ProviderError) -> Self {
        let text = with_causes(&err);
        match err {
            ProviderError::NoLeader(_) | ProviderError::ReadOnly | ProviderError::Discovery(_) => {
                ApiError::unavailable(text).into()
            }
            ProviderError::Sql(SqlError::Late) => ApiError::unavailable(text).into(),
            ProviderError::Sql(_) | ProviderError::Address(_) => failure(&text),
        }
    }
}

impl From<SqlError> for Failure {
    fn from(err: SqlError) -> Self {
        ProviderError::from(err).into()
    }
}
