//! The command line: one file for each command. Results go to stdout, talk goes to stderr; the exit status is 0 when
//! all went well, 1 when it failed, 2 for wrong use.

mod apply;
mod check;
mod database;
mod dev;
mod export;
mod healthcheck;
mod introspect;
mod issuer;
mod keys;
mod login;
mod migrate;
mod output;
mod serve;
mod source;
mod token;
mod user;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use output::Failure;

/// An OAuth 2.0 / OpenID Connect authorization server with a certificate authority in it
#[derive(Parser)]
#[command(
    name = "sealwright",
    version,
    after_help = "\
Examples:
  sealwright serve --dev                      the whole product on this machine, with demo data
  sealwright token --dev                      a token of that server's demo client
  sealwright login --dev                      its demo user signs in, with a browser
  sealwright serve --config sealwright.toml   a server of your own
  sealwright apply --config sealwright.toml orders.toml"
)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Args),
    Apply(apply::Args),
    Export(export::Args),
    Check(check::Args),
    Migrate(migrate::Args),
    Keys(keys::Args),
    User(user::Args),
    Token(token::Args),
    Login(login::Args),
    Introspect(introspect::Args),
    Healthcheck(healthcheck::Args),
}

impl Command {
    async fn run(self) -> Result<(), Failure> {
        if !matches!(self, Self::Serve(_)) {
            crate::log::start_quiet();
        }
        match self {
            Self::Serve(args) => serve::run(args).await,
            Self::Apply(args) => apply::run(args).await,
            Self::Export(args) => export::run(args).await,
            Self::Check(args) => check::run(args).await,
            Self::Migrate(args) => migrate::run(args).await,
            Self::Keys(args) => keys::run(args).await,
            Self::User(args) => user::run(args).await,
            Self::Token(args) => token::run(args).await,
            Self::Login(args) => login::run(args).await,
            Self::Introspect(args) => introspect::run(args).await,
            Self::Healthcheck(args) => healthcheck::run(&args),
        }
    }
}

/// Runs the command that this process's arguments name.
pub fn main() -> ExitCode {
    leave_no_core();
    let CommandLine { command } = CommandLine::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(cause) => return Failure::failed(format!("the threads of this process cannot be started: {cause}")).tell(),
    };
    let outcome = runtime.block_on(Box::pin(command.run()));
    // What still runs on its own has nothing to say any more.
    runtime.shutdown_timeout(Duration::from_millis(500));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}

/// A crash writes no memory, and so no secret, to a disk. A limit of one byte is less than any core, and it alone keeps
/// Linux from handing the core to a program that collects them: zero does not. Under a hard limit of zero it cannot be set.
/// Then the process is not dumpable, which shuts out debuggers without privileges, too, and so is second choice.
fn leave_no_core() {
    let limit = Rlimit { current: Some(1), ..getrlimit(Resource::Core) };
    if setrlimit(Resource::Core, limit).is_err() {
        #[cfg(target_os = "linux")]
        let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_command_has_help_with_an_example() {
        for command in CommandLine::command().get_subcommands() {
            let leaf = command.get_subcommands().next().unwrap_or(command);
            assert!(leaf.get_about().is_some(), "{}", command.get_name());
            let help = leaf.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("sealwright {}", command.get_name())), "{}: {help}", command.get_name());
        }
    }

    #[test]
    fn no_secret_is_taken_as_an_argument() {
        let command = CommandLine::command();
        for command in command.get_subcommands() {
            for argument in command.get_arguments() {
                let id = argument.get_id().as_str();
                let takes = argument.get_action().takes_values() && (id.contains("secret") || id.contains("key"));
                assert!(!takes || id.ends_with("_file"), "{} {id}", command.get_name());
            }
        }
    }

    #[test]
    fn a_file_and_dev_exclude_each_other() {
        assert!(CommandLine::try_parse_from(["sealwright", "check", "--dev", "--config", "a.toml"]).is_err());
        assert!(CommandLine::try_parse_from(["sealwright", "token", "--dev", "--client-id", "a"]).is_err());
    }
}
