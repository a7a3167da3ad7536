use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::dev;
use super::output::{Failure, give, say};
use super::source::Source;
use crate::app::{self, App};

/// Run the server. The first start needs no preparation: it makes the database, the keys and the master key file
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sealwright serve --dev
  sealwright serve --config /etc/sealwright.toml
  SEALWRIGHT_ISSUER=https://id.example.com sealwright serve

Development (--dev): issuer http://localhost:8080, reachable from this machine only, with a demo API and two demo clients,
told in sealwright-dev/dev.json. For a second one, in another folder, set SEALWRIGHT_HTTP__LISTEN=localhost:8081 and
SEALWRIGHT_MANAGEMENT__LISTEN=127.0.0.1:9091.

Signals: SIGTERM and SIGINT let open requests end, a second one ends at once; SIGHUP reads the TLS certificate again
(other settings are read at the start only).")]
pub struct Args {
    #[command(flatten)]
    source: Source,
}

/// `sealwright serve`.
pub async fn run(args: Args) -> Result<(), Failure> {
    let config = if args.source.dev { dev::serve_config()? } else { args.source.load_valid()? };
    crate::log::start(&config.log);
    crate::http::layers::log_panics();
    // From here on no signal ends the process before it is ready to be told so.
    let signals = Signals::catch()?;
    if args.source.dev {
        dev::make_folder()?;
    }
    let opened = app::open(&config).await?;
    let tell = Tell { dev: args.source.dev };
    opened.notes.iter().for_each(|note| tell.note(note));
    let demo = if args.source.dev { Some(dev::demo(&opened.db, &config).await?) } else { None };
    let drain = config.http.drain_seconds;
    let issuer = config.issuer.as_ref().map(ToString::to_string).unwrap_or_default();
    let app = App::start(config, opened).await?;
    tell.ready(&issuer, &app);
    if let Some(demo) = demo {
        // Nobody may read it, and the server is there all the same.
        let _ = give(demo.lines(&program()));
    }
    let stop = CancellationToken::new();
    tokio::select! {
        ended = app.run(stop.clone()) => Ok(ended?),
        outcome = signals.obey(&app, &stop, drain) => outcome,
    }
}

/// Development talks to a person; a server's stderr is its log, one event a line.
struct Tell {
    dev: bool,
}

impl Tell {
    fn note(&self, note: &str) {
        if self.dev { say(note) } else { tracing::info!("{note}") }
    }

    fn ready(&self, issuer: &str, app: &App) {
        let addresses = app.addresses().into_iter().map(|(kind, address)| format!("{kind} {address}"));
        let listeners = addresses.collect::<Vec<_>>().join(", ");
        if self.dev {
            say(format_args!("Sealwright {}, development. Issuer {issuer}; listening: {listeners}", env!("CARGO_PKG_VERSION")));
        } else {
            tracing::info!(issuer, listeners, version = env!("CARGO_PKG_VERSION"), "ready");
        }
    }
}

/// The signals that a server obeys.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Obeys until the second signal to end, which is the `Err` that this returns.
    async fn obey(mut self, app: &App, stop: &CancellationToken, drain_seconds: u32) -> Result<(), Failure> {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
                _ = self.hang_up.recv() => {
                    tracing::info!("SIGHUP: the TLS certificate is read again; other settings are read at the start only");
                    app.reload();
                    continue;
                }
            }
            if stop.is_cancelled() {
                return Err(Failure::failed("ended by a second signal, with requests still open"));
            }
            tracing::info!(drain_seconds, "stopping: open requests may end; a second signal ends at once");
            stop.cancel();
        }
    }
}

/// How this program was called, for lines to paste into a shell.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "sealwright".to_owned())
}
