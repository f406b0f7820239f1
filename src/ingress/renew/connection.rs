//! The one connection to Redis: made when there is something to say, and made anew when it fails.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read as _, ReadBuf, Write as _};
use smol::future::FutureExt;
use smol::{Async, Timer};

use super::Settings;
use super::dsn::{Address, Dsn};
use super::intent::Intent;
use super::resp::{self, Malformed, Reply};
use crate::http::connect::{self, Connector};
use crate::http::io::Stream;

/// How long one batch may take with everything: connecting, and trying again.
pub const PUSH_TIME: Duration = Duration::from_secs(5);

/// Why Redis was not told.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] connect::Error),
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The other end is no Redis.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Redis refuses a command.
    #[error("{command}: {reason}")]
    Refused {
        /// Which.
        command: &'static str,
        /// Why, in its words.
        reason: String,
    },
    /// There was no answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

impl Error {
    /// Whether a new connection may do better.
    fn is_passing(&self) -> bool {
        matches!(self, Self::Io(_) | Self::TimedOut(_))
    }
}

pub(super) struct Connection {
    dsn: Dsn,
    queue_key: String,
    trim: Option<String>,
    connector: Connector,
    stream: Option<Stream>,
}

impl Connection {
    /// Connects when there is something to say. `connector` has TLS where the address needs it.
    pub(super) fn new(settings: &Settings, connector: Connector) -> Self {
        let dsn = settings.redis.clone();
        Self {
            connector: connector.timeout(dsn.dial_time),
            queue_key: settings.queue_key.clone(),
            trim: settings
                .queue_max_len
                .map(|most| most.saturating_sub(1).to_string()),
            dsn,
            stream: None,
        }
    }

    /// Puts the intents at the head of the list, in order, and cuts its tail.
    pub(super) async fn push(&mut self, batch: &[Intent]) -> Result<(), Error> {
        let commands = self.commands(batch);
        let pushing = async {
            let mut pause = self.dsn.retry_pause.0;
            let mut tries = 0;
            loop {
                match self.try_push(&commands).await {
                    Err(error) if error.is_passing() && tries < self.dsn.max_retries => {
                        tries += 1;
                        Timer::after(pause).await;
                        pause = (pause * 2).min(self.dsn.retry_pause.1);
                    }
                    outcome => return outcome,
                }
            }
        };
        let outcome = within(PUSH_TIME, pushing).await;
        if outcome.is_err() {
            // Whatever comes on it later answers something else.
            self.stream = None;
        }
        outcome
    }

    fn commands(&self, batch: &[Intent]) -> Commands {
        let key = self.queue_key.as_bytes();
        let payloads: Vec<_> = batch.iter().map(Intent::json).collect();
        let mut words = vec![&b"LPUSH"[..], key];
        words.extend(payloads.iter().map(Vec::as_slice));
        let mut commands = Commands::default();
        commands.add("LPUSH", &words);
        if let Some(last) = &self.trim {
            commands.add("LTRIM", &[b"LTRIM", key, b"0", last.as_bytes()]);
        }
        commands
    }

    async fn try_push(&mut self, commands: &Commands) -> Result<(), Error> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.greet().await?,
        };
        within(self.dsn.exchange_time, commands.exchange(&mut stream)).await?;
        self.stream = Some(stream);
        Ok(())
    }

    async fn greet(&self) -> Result<Stream, Error> {
        let Dsn {
            username,
            password,
            db,
            client_name,
            ..
        } = &self.dsn;
        let mut stream = self.connect().await?;
        let mut greeting = Commands::default();
        match (username, password) {
            (Some(name), password) => {
                let password = password.as_deref().unwrap_or_default();
                greeting.add("AUTH", &[b"AUTH", name.as_bytes(), password.as_bytes()]);
            }
            (None, Some(password)) => greeting.add("AUTH", &[b"AUTH", password.as_bytes()]),
            (None, None) => {}
        }
        if let Some(name) = client_name {
            greeting.add("CLIENT", &[b"CLIENT", b"SETNAME", name.as_bytes()]);
        }
        if *db != 0 {
            greeting.add("SELECT", &[b"SELECT", db.to_string().as_bytes()]);
        }
        within(self.dsn.exchange_time, greeting.exchange(&mut stream)).await?;
        Ok(stream)
    }

    async fn connect(&self) -> Result<Stream, Error> {
        match &self.dsn.address {
            Address::Tcp { host, port, tls } => {
                let scheme = if tls.is_some() { "https" } else { "http" };
                let host = if host.contains(':') {
                    format!("[{host}]")
                } else {
                    host.clone()
                };
                let uri: Uri = format!("{scheme}://{host}:{port}/")
                    .parse()
                    .map_err(io::Error::other)?;
                Ok(self.connector.connect(&uri).await?)
            }
            Address::Unix(path) => {
                let socket = Async::<std::os::unix::net::UnixStream>::connect(path);
                Ok(Stream::unix(
                    within(self.dsn.dial_time, async { Ok(socket.await?) }).await?,
                ))
            }
        }
    }
}

/// Commands to be sent in one go.
#[derive(Default)]
struct Commands {
    octets: Vec<u8>,
    names: Vec<&'static str>,
}

impl Commands {
    fn add(&mut self, name: &'static str, words: &[&[u8]]) {
        resp::command(&mut self.octets, words);
        self.names.push(name);
    }

    /// Sends the commands and reads a reply to each.
    async fn exchange(&self, stream: &mut Stream) -> Result<(), Error> {
        let mut rest = &self.octets[..];
        while !rest.is_empty() {
            let sent = poll_fn(|context| Pin::new(&mut *stream).poll_write(context, rest)).await?;
            if sent == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
            rest = &rest[sent..];
        }
        poll_fn(|context| Pin::new(&mut *stream).poll_flush(context)).await?;
        let mut received = Vec::new();
        for name in &self.names {
            let reply = loop {
                if let Some((reply, length)) = resp::reply(&received)? {
                    received.drain(..length);
                    break reply;
                }
                let mut octets = [0; 512];
                let mut buffer = ReadBuf::new(&mut octets);
                poll_fn(|context| Pin::new(&mut *stream).poll_read(context, buffer.unfilled()))
                    .await?;
                if buffer.filled().is_empty() {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                received.extend_from_slice(buffer.filled());
            };
            if let Reply::Refused(reason) = reply {
                return Err(Error::Refused {
                    command: name,
                    reason,
                });
            }
        }
        Ok(())
    }
}

async fn within<T>(
    time: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let late = async {
        Timer::after(time).await;
        Err(Error::TimedOut(time))
    };
    work.or(late).await
}
