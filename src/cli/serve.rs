//! `sealwright serve`: the server, and the signals that it obeys.

use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::dev;
use super::output::{Failure, give, say};
use super::source::Source;
use crate::app::{self, App};
use crate::clock::Clock;
use crate::config::Config;
use crate::http::tls::Acceptor;
use crate::log::Filter;

/// Run the server. The first start needs no preparation: it makes the database, the keys and the master key file
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sealwright serve --dev
  sealwright serve --config /etc/sealwright.toml
  SEALWRIGHT_ISSUER=https://id.example.com sealwright serve

Development (--dev): issuer http://localhost:8080, reachable from this machine only, with a demo API, demo clients
and a demo user, told in sealwright-dev/dev.json. For a second one, in another folder, set SEALWRIGHT_HTTP__LISTEN=localhost:8081 and
SEALWRIGHT_MANAGEMENT__LISTEN=127.0.0.1:9091.

Signals: SIGTERM and SIGINT let open requests end, a second one ends at once; SIGHUP reads the TLS certificate and
log.filter again (other settings are read at the start only).")]
pub struct Args {
    #[command(flatten)]
    source: Source,
}

/// `sealwright serve`.
pub async fn run(args: Args) -> Result<(), Failure> {
    let dev = args.source.dev;
    let config = if dev { dev::serve_config()? } else { args.source.load_valid()? };
    let log = crate::log::start(&config.log);
    let mut signals = Signals::catch()?;
    // `sealwright migrate` may be long in coming; who does not want to wait for it may say so.
    let app = tokio::select! {
        started = start(&config, dev) => started?,
        () = signals.end(None) => {
            tracing::info!("ended by a signal, before it was ready");
            return Ok(());
        }
    };
    let (stop, drain_seconds) = (CancellationToken::new(), config.http.drain_seconds);
    let reread = Reread { source: args.source, log, tls: app.tls() };
    // Nobody needs the secrets in it as text from here on.
    drop(config);
    let serving = app.run(stop.clone());
    let ending = async {
        signals.end(Some(&reread)).await;
        tracing::info!(seconds = drain_seconds, "stopping: open requests may end; a second signal ends at once");
        stop.cancel();
        signals.end(None).await;
    };
    tokio::select! {
        () = serving => Ok(()),
        () = ending => Err(Failure::failed("ended by a second signal, before the open requests were done")),
    }
}

async fn start(config: &Config, dev: bool) -> Result<App, Failure> {
    if dev {
        dev::make_folder()?;
    }
    // Nothing is made for a server that could not start.
    app::acceptor(config)?;
    let opened = app::open(config, Clock::system(), true).await?;
    opened.notes.iter().for_each(|note| tell(dev, note));
    let app = App::start(config, opened).await?;
    // Only now is it certain that this is the one server of the folder, which others find by dev.json.
    let demo = if dev { Some(dev::demo(app.services()).await?) } else { None };
    let issuer = config.issuer.as_ref().map(ToString::to_string).unwrap_or_default();
    let listening = app.addresses().into_iter().map(|(listener, address)| format!("{listener} {address}"));
    let listening = listening.collect::<Vec<_>>().join(", ");
    tell(dev, &format!("ready: issuer {issuer}; listening on {listening}"));
    if let Some(demo) = demo {
        // Nobody may read it, and the server is there all the same.
        let _ = give(demo.lines(&program()));
    }
    Ok(app)
}

/// Development talks to a person; the stderr of any other server is its log, one event a line.
fn tell(dev: bool, text: &str) {
    if dev { say(text) } else { tracing::info!("{text}") }
}

/// The signals that a server obeys.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// From here on they no longer end the process by themselves.
    fn catch() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal to end; meanwhile SIGHUP has `reread` read again.
    async fn end(&mut self, reread: Option<&Reread>) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => reread.into_iter().for_each(Reread::again),
            }
        }
    }
}

/// What SIGHUP reads again. What is wrong in it is told, and changes nothing.
struct Reread {
    source: Source,
    log: Filter,
    tls: Option<Arc<Acceptor>>,
}

impl Reread {
    fn again(&self) {
        match self.source.load() {
            Ok(config) => {
                self.log.set(&config.log);
                tracing::info!(filter = config.log.filter.as_str(), "SIGHUP: log.filter was read again; other settings need a restart");
            }
            Err(problems) => problems.0.iter().for_each(
                |problem| tracing::error!(%problem, "SIGHUP: the configuration has a mistake; the settings in use stay"),
            ),
        }
        match self.tls.as_deref().map(Acceptor::reload) {
            Some(Ok(())) => tracing::info!("SIGHUP: the TLS certificate was read again"),
            Some(Err(cause)) => tracing::error!(%cause, "SIGHUP: the TLS certificate in use stays"),
            None => {}
        }
    }
}

/// How this program was called, for lines to paste into a shell.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "sealwright".to_owned())
}
