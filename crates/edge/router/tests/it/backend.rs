//! Backends: one that answers with its name and remembers what it saw, and ones that do what a test writes down.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::rig::LOOPBACK;

/// A request as a backend got it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> &str {
        let values: Vec<_> = self.headers.get_all(name).iter().collect();
        assert!(values.len() < 2, "{name} is one header: {values:?}");
        values.first().map_or("", |value| value.to_str().expect("text"))
    }
}

/// A server that ends when it is dropped.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Backend {
    /// Answers everything with its name.
    pub(crate) async fn named(name: &'static str) -> Self {
        Self::answering(move |_| Response::new(Full::new(Bytes::from_static(name.as_bytes())))).await
    }

    /// Answers with what `answer` makes of a request.
    pub(crate) async fn answering(answer: impl Fn(&Seen) -> Response<Full<Bytes>> + Send + Sync + 'static) -> Self {
        let answer = Arc::new(answer);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let book = Arc::clone(&seen);
        let serve = move |stream: TcpStream| {
            let (answer, book) = (Arc::clone(&answer), Arc::clone(&book));
            async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let (answer, book) = (Arc::clone(&answer), Arc::clone(&book));
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await;
                        let (body, trailers) = body.map_or_else(
                            |_| (Bytes::new(), None),
                            |body| {
                                let trailers = body.trailers().cloned();
                                (body.to_bytes(), trailers)
                            },
                        );
                        let target = head.uri.to_string();
                        let seen = Seen { target, headers: head.headers, body, trailers };
                        let response = answer(&seen);
                        lock(&book).push(seen);
                        Ok::<_, Infallible>(response)
                    }
                });
                let io = TokioIo::new(stream);
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
            }
        };
        let mut backend = Self::serving(serve).await;
        backend.seen = seen;
        backend
    }

    /// Does with each connection what a test writes down.
    pub(crate) async fn scripted<F>(script: impl Fn(Client) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::serving(move |stream| script(Client::new(stream))).await
    }

    async fn serving<F>(serve: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((LOOPBACK, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let mut running = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                running.spawn(serve(stream));
            }
        });
        Self { address, connections, seen: Arc::default(), task }
    }

    /// Connections taken so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        lock(&self.seen).clone()
    }

    /// The last request.
    pub(crate) fn last(&self) -> Seen {
        lock(&self.seen).last().expect("a request came").clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
