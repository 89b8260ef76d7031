//! Making apps and what belongs to them.

use std::collections::BTreeMap;

use flynn_http::{ClientError, path_segment};
use flynn_types::controller::{App, Deployment, Formation, Job, Provider, Release, Resource};
use flynn_types::image::Artifact;
use flynn_types::router::Route;
use http::Method;

use crate::Client;
use crate::client::optional;

impl Client {
    /// Creates an app; 409 if its name or id is taken.
    pub async fn create_app(&self, app: &App) -> Result<App, ClientError> {
        self.http.send_json(Method::POST, "/apps", app).await
    }

    /// Creates an artifact, or gives the one of the same kind and address.
    pub async fn create_artifact(&self, artifact: &Artifact) -> Result<Artifact, ClientError> {
        self.http.send_json(Method::POST, "/artifacts", artifact).await
    }

    /// Creates a release; 409 if its id is taken.
    pub async fn create_release(&self, release: &Release) -> Result<Release, ClientError> {
        self.http.send_json(Method::POST, "/releases", release).await
    }

    /// The current release of an app; 404 if it has none.
    pub async fn current_release(&self, app: &str) -> Result<Release, ClientError> {
        self.http.get_json(&format!("/apps/{}/release", path_segment(app))).await
    }

    /// Says how many jobs of a release run.
    pub async fn put_formation(&self, formation: &Formation) -> Result<(), ClientError> {
        let (app, release) = (path_segment(&formation.app_id), path_segment(&formation.release_id));
        self.http.put_json(Method::PUT, &format!("/apps/{app}/formations/{release}"), formation).await
    }

    /// Jobs of an app, newest first.
    pub async fn jobs(&self, app: &str) -> Result<Vec<Job>, ClientError> {
        self.http.get_json(&format!("/apps/{}/jobs", path_segment(app))).await
    }

    /// Creates a provider; 409 if its name or address is taken.
    pub async fn create_provider(&self, provider: &Provider) -> Result<Provider, ClientError> {
        self.http.send_json(Method::POST, "/providers", provider).await
    }

    /// A provider by id or name; `None` if there is none.
    pub async fn provider(&self, provider: &str) -> Result<Option<Provider>, ClientError> {
        optional(self.http.get_json(&format!("/providers/{}", path_segment(provider))).await)
    }

    /// Records a resource that exists at its provider.
    pub async fn put_resource(&self, resource: &Resource) -> Result<(), ClientError> {
        let (provider, id) = (path_segment(&resource.provider_id), path_segment(&resource.id));
        self.http.put_json(Method::PUT, &format!("/providers/{provider}/resources/{id}"), resource).await
    }

    /// Deploys a release; the worker does it. `finished_at` is set where nothing was to be done.
    pub async fn deploy(&self, app: &str, release: &str) -> Result<Deployment, ClientError> {
        let body = BTreeMap::from([("id", release)]);
        self.http.send_json(Method::POST, &format!("/apps/{}/deploy", path_segment(app)), &body).await
    }

    /// A deployment; `None` if there is none.
    pub async fn deployment(&self, id: &str) -> Result<Option<Deployment>, ClientError> {
        optional(self.http.get_json(&format!("/deployments/{}", path_segment(id))).await)
    }

    /// Has a deployment taken back; 409 if it is over. `false` if there is none.
    pub async fn cancel_deployment(&self, id: &str) -> Result<bool, ClientError> {
        self.delete(&format!("/deployments/{}", path_segment(id))).await
    }

    pub async fn create_route(&self, app: &str, route: &Route) -> Result<Route, ClientError> {
        self.http.send_json(Method::POST, &format!("/apps/{}/routes", path_segment(app)), route).await
    }
}
