//! Figures for Prometheus. One set per issuer; whoever counts holds a handle, and counting is an atomic addition.

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};

use crate::clock::{Micros, SECOND};
use crate::error::Code;
use crate::wire::{Algorithm, GrantType};

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Word = (&'static str, &'static str);
type Counters<const N: usize> = Family<[Word; N], Counter>;
type RouteCounters = Family<[(&'static str, Cow<'static, str>); 3], Counter>;
/// A gauge of a real number: seconds.
pub type Seconds = Gauge<f64, AtomicU64>;

/// Upper bounds in microseconds: from a warm hit to the deadline of a request.
const ISSUE_BOUNDS: &[u64] = &[
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000,
];

/// Every figure of one issuer. What is measured is in the help texts of [`Metrics::new`].
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    token_requests: Counters<2>,
    tokens_issued: Vec<Counter>,
    introspections: Counters<1>,
    introspected: [Counter; 2],
    revocations: Counters<1>,
    outbound_requests: Counters<1>,
    sign_ins: Counters<1>,
    http_requests: RouteCounters,
    http_connections: Family<[Word; 1], Gauge>,
    pool_connections: Family<[Word; 1], Gauge>,
    signing_key_age: Family<[Word; 2], Seconds>,
    signing_key_next: Family<[Word; 2], Seconds>,
    signing_key_steps: Counters<2>,
    /// For how long a step of the signing keys has been due and not made.
    pub signing_key_late: Seconds,
    /// How long a token request took from the first byte of work to the reply, in microseconds.
    pub token_issue: Histogram,
    /// Handlers that panicked.
    pub http_panics: Counter,
    /// Jobs waiting for the database's writer.
    pub write_queue: Gauge,
    /// What is left of this node's lease.
    pub lease_remaining: Seconds,
    /// How long ago the change feed was last read.
    pub feed_lag: Seconds,
    /// The last change applied.
    pub feed_applied: Gauge,
    /// How far this machine's clock is ahead of the database's.
    pub clock_skew: Seconds,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All figures at zero.
    pub fn new() -> Self {
        let mut to = Registry::with_prefix("sealwright");
        let token_requests = register(&mut to, "token_requests", "Token requests by grant and outcome");
        let tokens_issued = GrantType::ALL.iter().map(|grant| counter(&token_requests, token(grant.as_str(), "ok")));
        let introspections = register(&mut to, "introspections", "Introspections by outcome");
        let issue = "Time from a token request's start to its reply";
        Self {
            tokens_issued: tokens_issued.collect(),
            token_requests,
            introspected: ["inactive", "active"].map(|word| counter(&introspections, [("outcome", word)])),
            introspections,
            revocations: register(&mut to, "revocations", "Revocation requests by outcome"),
            sign_ins: register(&mut to, "sign_ins", "Attempts at signing in with a password, by outcome"),
            outbound_requests: register(&mut to, "outbound_requests", "Requests we made to others, by outcome"),
            http_requests: register(&mut to, "http_requests", "Requests by route pattern, method and status"),
            http_connections: register(&mut to, "http_connections", "Open connections by listener"),
            pool_connections: register(&mut to, "database_pool_connections", "Database connections by state"),
            signing_key_age: register(
                &mut to,
                "signing_key_age_seconds",
                "Age of the oldest key by algorithm and state",
            ),
            signing_key_next: register(
                &mut to,
                "signing_key_next_step_seconds",
                "Time until the next step of the signing keys' schedule, by algorithm and step",
            ),
            signing_key_steps: register(
                &mut to,
                "signing_key_steps",
                "Steps in the lives of signing keys, by the schedule or by hand, that this node learnt of",
            ),
            signing_key_late: register(
                &mut to,
                "signing_key_late_seconds",
                "For how long a step of the signing keys' schedule has been due",
            ),
            token_issue: histogram(&mut to, ("token_issue_seconds", issue), ISSUE_BOUNDS, 1e6),
            http_panics: register(&mut to, "http_panics", "Requests whose handler panicked"),
            write_queue: register(&mut to, "database_write_queue", "Jobs waiting for the writer"),
            lease_remaining: register(&mut to, "node_lease_remaining_seconds", "What is left of this node's lease"),
            feed_lag: register(&mut to, "feed_lag_seconds", "Age of the oldest change that this node has not applied"),
            feed_applied: register(&mut to, "feed_applied_sequence", "The last change this node applied"),
            clock_skew: register(&mut to, "clock_skew_seconds", "This machine's clock minus the database's"),
            registry: to,
        }
    }

    /// The exposition, in the text format of `OpenMetrics`.
    pub fn render(&self) -> String {
        let mut text = String::with_capacity(8 * 1024);
        // Writing to a String fails only if a metric refuses to be encoded, and ours do not.
        if prometheus_client::encoding::text::encode(&mut text, &self.registry).is_err() {
            tracing::error!("the metrics could not be rendered");
        }
        text
    }

    /// A token request that ended: `grant` is `None` when the request named none of ours; `error` is `None` for a token.
    pub fn token_request(&self, grant: Option<GrantType>, error: Option<Code>) {
        if let (Some(grant), None) = (grant, error) {
            self.tokens_issued[grant as usize].inc();
        } else {
            let grant = grant.map_or("other", GrantType::as_str);
            self.token_requests.get_or_create(&token(grant, error.map_or("ok", Code::as_str))).inc();
        }
    }

    /// An introspection that was answered with `active`.
    pub fn introspected(&self, active: bool) {
        self.introspected[usize::from(active)].inc();
    }

    /// An introspection that was refused.
    pub fn introspection_refused(&self, error: Code) {
        self.introspections.get_or_create(&[("outcome", error.as_str())]).inc();
    }

    /// A revocation request that ended; `None` for the 200.
    pub fn revocation(&self, error: Option<Code>) {
        self.revocations.get_or_create(&[("outcome", error.map_or("ok", Code::as_str))]).inc();
    }

    /// An attempt at signing in with a password: `ok`, `wrong`, `unknown`, `disabled`, `malformed`, or `throttled`, where
    /// the password was not looked at.
    pub fn sign_in(&self, outcome: &'static str) {
        self.sign_ins.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// A request that we made: `ok`, or one of few fixed words for why not.
    pub fn outbound_request(&self, outcome: &'static str) {
        self.outbound_requests.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Open connections of `listener` (`http`, `tls`, `mtls`, `management`).
    pub fn connections(&self, listener: &'static str) -> Gauge {
        self.http_connections.get_or_create_owned(&[("listener", listener)])
    }

    /// Connections of the database pool.
    pub fn set_pool(&self, idle: u32, in_use: u32) {
        self.pool_connections.get_or_create(&[("state", "idle")]).set(idle.into());
        self.pool_connections.get_or_create(&[("state", "in_use")]).set(in_use.into());
    }

    /// The signing keys there are: algorithm, state, and age in seconds of the oldest of that kind. Replaces them all.
    pub fn set_signing_keys(&self, keys: impl IntoIterator<Item = (Algorithm, &'static str, f64)>) {
        self.signing_key_age.clear();
        for (algorithm, state, age) in keys {
            self.signing_key_age.get_or_create(&[("alg", algorithm.as_str()), ("state", state)]).set(age);
        }
    }

    /// The next step of each algorithm's keys: algorithm, step, and seconds until it is due. Replaces them all.
    pub fn set_signing_key_steps(&self, steps: impl IntoIterator<Item = (Algorithm, &'static str, f64)>) {
        self.signing_key_next.clear();
        for (algorithm, step, left) in steps {
            self.signing_key_next.get_or_create(&[("alg", algorithm.as_str()), ("step", step)]).set(left);
        }
    }

    /// A step in the life of a signing key, whoever made it.
    pub fn signing_key_step(&self, algorithm: Algorithm, step: &'static str) {
        self.signing_key_steps.get_or_create(&[("alg", algorithm.as_str()), ("step", step)]).inc();
    }

    /// The counters of one route pattern, to be kept by the route.
    pub fn route(&self, pattern: &str) -> RouteMetrics {
        RouteMetrics { pattern: pattern.to_owned(), family: self.http_requests.clone(), known: RwLock::default() }
    }
}

/// Requests of one route: its counters are looked up once per method and status, and then kept at hand.
#[derive(Debug)]
pub struct RouteMetrics {
    pattern: String,
    family: RouteCounters,
    known: RwLock<Vec<(&'static str, u16, Counter)>>,
}

impl RouteMetrics {
    /// The route pattern.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Counts an answer. `method` must come from a fixed list.
    pub fn count(&self, method: &'static str, status: u16) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((.., counter)) = known.iter().find(|(m, s, _)| *s == status && *m == method) {
            counter.inc();
            return;
        }
        drop(known);
        let labels = [
            ("route", Cow::Owned(self.pattern.clone())),
            ("method", Cow::Borrowed(method)),
            ("status", Cow::Owned(status.to_string())),
        ];
        let counter = self.family.get_or_create_owned(&labels);
        counter.inc();
        self.known.write().unwrap_or_else(PoisonError::into_inner).push((method, status, counter));
    }
}

/// A histogram whose observations are two atomic additions. (The library's own takes a lock for each.)
#[derive(Clone)]
pub struct Histogram(Arc<Buckets>);

struct Buckets {
    bounds: &'static [u64],
    /// One more than there are bounds.
    counts: Vec<AtomicU64>,
    sum: AtomicU64,
    /// How many of the counted units (microseconds, jobs) one of the shown units (seconds, jobs) has.
    scale: f64,
}

impl Histogram {
    fn new(bounds: &'static [u64], scale: f64) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Buckets { bounds, counts, sum: AtomicU64::new(0), scale }))
    }

    /// Counts `value`, in the histogram's unit: microseconds, jobs.
    pub fn observe(&self, value: u64) {
        let bucket = self.0.bounds.partition_point(|bound| *bound < value);
        self.0.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.0.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Counts a time span.
    pub fn observe_micros(&self, span: Micros) {
        self.observe(u64::try_from(span).unwrap_or(0));
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Histogram")
    }
}

impl EncodeMetric for Histogram {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people: 52 bits are enough")]
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let counts: Vec<_> = self.0.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let bounds = self.0.bounds.iter().map(|bound| *bound as f64 / self.0.scale).chain([f64::MAX]);
        let buckets: Vec<_> = bounds.zip(counts.iter().copied()).collect();
        let sum = self.0.sum.load(Ordering::Relaxed) as f64 / self.0.scale;
        encoder.encode_histogram::<NoLabelSet>(sum, counts.iter().sum(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// A time span as a gauge shows it.
#[expect(clippy::cast_precision_loss, reason = "a figure for people: 52 bits are enough")]
pub fn in_seconds(micros: Micros) -> f64 {
    micros as f64 / SECOND as f64
}

fn register<M: Metric + Clone + Default>(to: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    to.register(name, help, metric.clone());
    metric
}

fn histogram(to: &mut Registry, (name, help): (&str, &str), bounds: &'static [u64], scale: f64) -> Histogram {
    let metric = Histogram::new(bounds, scale);
    to.register(name, help, metric.clone());
    metric
}

fn counter<const N: usize>(family: &Counters<N>, labels: [Word; N]) -> Counter {
    family.get_or_create_owned(&labels)
}

fn token(grant: &'static str, outcome: &'static str) -> [Word; 2] {
    [("grant", grant), ("outcome", outcome)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(metrics: &Metrics, line: &str) {
        let text = metrics.render();
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }

    #[test]
    fn counts_are_rendered_under_their_names() {
        let metrics = Metrics::new();
        has(&metrics, r#"sealwright_token_requests_total{grant="client_credentials",outcome="ok"} 0"#);
        metrics.token_request(Some(GrantType::ClientCredentials), None);
        metrics.token_request(None, Some(Code::UnsupportedGrantType));
        has(&metrics, r#"sealwright_token_requests_total{grant="client_credentials",outcome="ok"} 1"#);
        has(&metrics, r#"sealwright_token_requests_total{grant="other",outcome="unsupported_grant_type"} 1"#);
        metrics.introspected(true);
        metrics.introspection_refused(Code::InvalidClient);
        has(&metrics, r#"sealwright_introspections_total{outcome="active"} 1"#);
        has(&metrics, r#"sealwright_introspections_total{outcome="invalid_client"} 1"#);
        metrics.revocation(None);
        has(&metrics, r#"sealwright_revocations_total{outcome="ok"} 1"#);
        metrics.http_panics.inc();
        has(&metrics, "sealwright_http_panics_total 1");
        metrics.set_pool(3, 1);
        has(&metrics, r#"sealwright_database_pool_connections{state="in_use"} 1"#);
    }

    #[test]
    fn a_histogram_counts_at_its_bounds() {
        let metrics = Metrics::new();
        for micros in [50, 51, 10_000_000] {
            metrics.token_issue.observe_micros(micros);
        }
        has(&metrics, r#"sealwright_token_issue_seconds_bucket{le="0.00005"} 1"#);
        has(&metrics, r#"sealwright_token_issue_seconds_bucket{le="5.0"} 2"#);
        has(&metrics, r#"sealwright_token_issue_seconds_bucket{le="+Inf"} 3"#);
        has(&metrics, "sealwright_token_issue_seconds_count 3");
        has(&metrics, "sealwright_token_issue_seconds_sum 10.000101");
    }

    #[test]
    fn a_route_counts_by_method_and_status() {
        let metrics = Metrics::new();
        let route = metrics.route("/oauth2/token");
        for status in [200, 200, 401] {
            route.count("POST", status);
        }
        has(&metrics, r#"sealwright_http_requests_total{route="/oauth2/token",method="POST",status="200"} 2"#);
        has(&metrics, r#"sealwright_http_requests_total{route="/oauth2/token",method="POST",status="401"} 1"#);
    }

    #[test]
    fn keys_that_are_gone_are_not_shown() {
        let metrics = Metrics::new();
        metrics.set_signing_keys([(Algorithm::Es256, "active", 1.0)]);
        metrics.set_signing_keys([(Algorithm::EdDsa, "active", 2.5)]);
        has(&metrics, r#"sealwright_signing_key_age_seconds{alg="EdDSA",state="active"} 2.5"#);
        assert!(!metrics.render().contains("ES256"));
    }
}
