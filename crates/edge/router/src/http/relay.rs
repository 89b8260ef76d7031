//! Relaying a request to a backend, and what the client gets back.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{ACCEPT, CONNECTION, LOCATION, SET_COOKIE};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::backend::Upload;
use crate::cookie;
use crate::guard::Busy;
use crate::headers::{rewrite_response, wants_upgrade};
use crate::http::attempts::{Answered, Attempts};
use crate::http::body::{Relayed, ResponseBody};
use crate::http::exchange::Exchange;
use crate::http::head::{make_head, strip_for_http2};
use crate::http::page::Reason;
use crate::http::record::{Line, Record};
use crate::http::tunnel::{Traffic, copy_both_ways};
use crate::route::{BackendProtocol, HttpRoute};
use crate::worker::Worker;

/// Relays a request and gives what the client gets.
pub(super) async fn relay(
    exchange: &Exchange,
    route: &Arc<HttpRoute>,
    mut request: Request<Incoming>,
    busy: Busy,
) -> Response<ResponseBody> {
    let settings = &exchange.worker.shared.settings;
    // HTTP/1.0 and HTTP/2 have no upgrades.
    let upgrade = request.version() == Version::HTTP_11
        && route.protocol == BackendProtocol::Http1
        && wants_upgrade(request.headers());
    let client_upgrade = upgrade.then(|| hyper::upgrade::on(&mut request));
    let line = exchange.line(route, &request);
    let pinned = match route.sticky {
        true => cookie::find(request.headers()).and_then(|value| settings.cookie_key.open(value)),
        false => None,
    };
    let (mut head, incoming) = request.into_parts();
    let request_id = make_head(&mut head, exchange, &incoming, route.protocol);
    let upload = Upload::new(incoming, route.max_body, &settings.limits);
    let line = line.map(|line| Box::new(Line { request_id: request_id.clone(), ..*line }));
    let mut record = Record::new(&route.metrics, Some(Rc::clone(&upload)), line);
    let accept = head.headers.get(ACCEPT).cloned();
    let attempts = Attempts { worker: &exchange.worker, route, upload: &upload, pinned, upgrade };
    let answered = if upload.is_too_large() {
        exchange.worker.shared.metrics.clients_ended.large_body.inc();
        Err(Reason::BodyTooLarge)
    } else {
        attempts.run(head, &mut record).await
    };
    let (mut response, answered) = match answered {
        Ok(answered) => answered,
        Err(reason) => {
            record.status = reason.status();
            return exchange.page(reason, accept.as_ref(), &request_id, busy);
        }
    };
    upload.let_take_its_time();
    let pinned_to = (route.sticky && pinned != Some(answered.address)).then_some(answered.address);
    *response.version_mut() = Version::HTTP_11;
    rewrite_response(response.headers_mut());
    if let Some(address) = pinned_to {
        response.headers_mut().append(SET_COOKIE, cookie::set_cookie(&settings.cookie_key.seal(address)));
    }
    record.status = response.status();
    record.located(response.headers().get(LOCATION));
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let client = client_upgrade.expect("a response that nobody asked to switch is none");
        let backend = hyper::upgrade::on(&mut response);
        open_tunnel(&exchange.worker, client, backend, record);
        return response.map(|_empty| ResponseBody::page(bytes::Bytes::new(), busy));
    }
    if upgrade {
        // Bytes behind the request were not looked at: no other request can follow.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    pass_on(exchange, response, answered, record, busy, route.keep_alive && !upgrade)
}

/// Puts a response together with what has to last until it is read.
fn pass_on(
    exchange: &Exchange,
    mut response: Response<Incoming>,
    answered: Answered,
    record: Record,
    busy: Busy,
    keep: bool,
) -> Response<ResponseBody> {
    let lease = answered.lease.kept(keep);
    let Some(stalls) = &exchange.stalls else {
        return response.map(|incoming| ResponseBody::relayed(Relayed::new(incoming, record, lease), busy));
    };
    strip_for_http2(response.headers_mut());
    response.map(|incoming| {
        let relayed = Rc::new(RefCell::new(Relayed::new(incoming, record, lease)));
        stalls.note(&relayed);
        ResponseBody::shared(relayed, busy)
    })
}

/// Joins both connections once they have left HTTP. The tunnel counts as in flight until both sides have ended.
fn open_tunnel(worker: &Rc<Worker>, client: OnUpgrade, backend: OnUpgrade, mut record: Record) {
    let shared = Arc::clone(&worker.shared);
    let tunnel = async move {
        shared.metrics.tunnels.inc();
        if let Ok((client, backend)) = futures_util::try_join!(client, backend) {
            let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
            let traffic = Traffic::default();
            let copying = copy_both_ways(&mut client, &mut backend, &traffic);
            // However it ends, it has ended.
            let _ = shared.cut_off.run_until_cancelled(copying).await;
            record.tunnelled(&traffic);
        }
        shared.metrics.tunnels.dec();
    };
    tokio::task::spawn_local(worker.tasks.track_future(tunnel));
}
