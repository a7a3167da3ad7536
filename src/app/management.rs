//! The management listener: for orchestrators and Prometheus, never for the public.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use crate::cx::Services;
use crate::http::render;
use crate::metrics::in_seconds;
use crate::nodes::MOST_SKEW;

/// What `/health/ready` answers.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a member of the answer")]
pub struct Health {
    /// Whether this node answers token requests.
    pub ready: bool,
    /// Whether the database was read within a lease.
    pub lease: bool,
    /// Whether it is about to stop: balancers send it no more.
    pub draining: bool,
    /// Whether the wall clock agrees with the database's within 5 s.
    pub clock: bool,
}

impl Health {
    fn of(services: &Services) -> Self {
        let lease = services.node.lease_remaining() > 0;
        let clock = services.clock.skew().abs() <= MOST_SKEW;
        let draining = services.node.is_draining();
        Self { ready: lease && clock && !draining, lease, draining, clock }
    }
}

pub(super) fn routes(services: Arc<Services>) -> Router {
    Router::new()
        .route("/health/live", get(async || "alive\n"))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(services)
}

async fn ready(State(services): State<Arc<Services>>) -> Response {
    let health = Health::of(&services);
    render::json(if health.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &health)
}

async fn metrics(State(services): State<Arc<Services>>) -> Response {
    observe(&services);
    let mut response = Response::new(Body::from(services.metrics.render()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(crate::metrics::CONTENT_TYPE));
    response
}

/// Sets the gauges that are looked up rather than counted.
fn observe(services: &Services) {
    let (metrics, node, load) = (&services.metrics, &services.node, services.db.load());
    metrics.set_pool(load.idle, load.busy);
    let queue = load.queue + services.redemptions.queued() + services.rotations.queued();
    metrics.write_queue.set(i64::try_from(queue).unwrap_or(i64::MAX));
    metrics.lease_remaining.set(in_seconds(node.lease_remaining()));
    metrics.feed_lag.set(in_seconds(node.lag()));
    metrics.feed_applied.set(node.applied());
    metrics.clock_skew.set(in_seconds(services.clock.skew()));
    let (now, ring) = (services.clock.now(), services.keys.ring());
    let ages = ring.entries().iter().map(|key| (key.algorithm, key.state.as_str(), in_seconds(now - key.created_at)));
    metrics.set_signing_keys(ages);
    let steps = services.keys.next_steps().into_iter();
    metrics.set_signing_key_steps(
        steps.map(|(algorithm, due)| (algorithm, due.step.as_str(), in_seconds((due.at - now).max(0)))),
    );
}
