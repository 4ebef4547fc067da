//! Allocator, crypto provider, arguments, exit code.

use std::process::ExitCode;
use std::time::Duration;

use lockgate::args::{self, Command, Told};
use lockgate::{app, cert, check, convert, demo, explain};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

// Faster than glibc's for many short-lived buffers, which is what proxying makes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator asks for huge pages, which take memory for buffers that nobody has written to: half as
    // much again for each idle connection. Where the kernel does not know the word there are none.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("lockgate: the crypto provider is installed twice");
        return ExitCode::FAILURE;
    }
    let command = match args::parse(std::env::args()) {
        Ok(cli) => cli.command,
        Err(Told { text, code: 0 }) => {
            app::say(&text);
            return ExitCode::SUCCESS;
        }
        Err(Told { text, code }) => {
            eprint!("{text}");
            return ExitCode::from(code);
        }
    };
    let (level, json) = match &command {
        Command::Serve(serve) => (serve.log.clone(), serve.log_json),
        Command::Cert(_)
        | Command::Check(_)
        | Command::Convert(_)
        | Command::Demo(_)
        | Command::Explain(_) => ("warn".to_owned(), false),
    };
    log_to_stderr(&level, json);
    // The control plane: a storm there must not slow the threads that serve.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(async {
                match &command {
                    Command::Serve(serve) => {
                        app::serve(serve, app::Source::Flags, CancellationToken::new()).await?;
                    }
                    Command::Cert(cert) => return cert::run(cert).await,
                    Command::Check(check) => return check::run(check).await,
                    Command::Convert(args) => return convert::run(args),
                    Command::Demo(demo) => demo::run(demo).await?,
                    Command::Explain(args) => return explain::run(args).await,
                }
                Ok(ExitCode::SUCCESS)
            });
            // A thread that waits for standard output or a resolver must not keep us.
            runtime.shutdown_timeout(Duration::from_secs(1));
            result
        }
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lockgate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn log_to_stderr(level: &str, json: bool) {
    // What these warn of is in a client's hands, which could fill the log with it.
    let filter = |level: &str| EnvFilter::try_new(format!("h2=error,rustls=error,{level}"));
    let filter = filter(level).or_else(|_| filter("info")).unwrap_or_default();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json {
        log.json().init();
    } else {
        log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init();
    }
}
