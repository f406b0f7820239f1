//! The sandbox: a server of this crate, which is not what is measured.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use http::{HeaderValue, StatusCode};
use http_body::{Frame, SizeHint};
use hyper::rt::{Read, ReadBuf, Write};
use hyper::upgrade::Upgraded;
use opensandbox::http::listen::Listen;
use opensandbox::http::server::{Exchange, Limits, Server, Unobserved};
use opensandbox::http::{Body, Request, Response};
use opensandbox::lifecycle::Shutdown;
use opensandbox::runtime::{Runtime, Spawner};
use smol::Timer;

/// The time between two events of a stream.
pub const EVENT_INTERVAL: Duration = Duration::from_millis(10);

/// The body of a small answer.
pub const BODY: &[u8] = b"hello, world";

const PIECE: usize = 64 * 1024;

pub struct Backend {
    pub address: SocketAddr,
    open: Arc<AtomicUsize>,
}

impl Backend {
    /// Serves until the process ends.
    pub fn start() -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let limits = Limits {
            connections: 100_000,
            ..Limits::default()
        };
        let server = Server::bind(&[Listen::from(any)], limits).expect("a port");
        let address = server.addresses()[0];
        let open = Arc::<AtomicUsize>::default();
        let counted = open.clone();
        std::thread::spawn(move || {
            let runtime = Runtime::new(NonZeroUsize::MIN).expect("a thread");
            let spawner = runtime.spawner();
            let handler = {
                let spawner = spawner.clone();
                move |request| answer(request, spawner.clone(), counted.clone())
            };
            let serving = server.serve(spawner, handler, Unobserved, Shutdown::new());
            runtime.block_on(serving)
        });
        Self { address, open }
    }

    /// Waits until no stream and no tunnel is open.
    pub fn wait_until_idle(&self) {
        while self.open.load(Ordering::SeqCst) > 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

async fn answer(mut request: Request, spawner: Spawner, open: Arc<AtomicUsize>) -> Response {
    let path = request.uri().path();
    if let Some(length) = path.strip_prefix("/body/") {
        let left = length.parse().expect("a length");
        let piece = Bytes::from(vec![b'x'; PIECE]);
        return Response::new(Body::stream(Large { left, piece }));
    }
    if path == "/events" {
        let events = Events {
            timer: Timer::interval(EVENT_INTERVAL),
            _open: Open::new(open),
        };
        let mut response = Response::new(Body::stream(events));
        let kind = HeaderValue::from_static("text/event-stream");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        return response;
    }
    if path == "/echo" {
        let upgrade = hyper::upgrade::on(&mut request);
        let exchange = request.extensions().get::<Exchange>().cloned();
        let guard = Open::new(open);
        let echo = async move {
            if let Ok(upgraded) = upgrade.await {
                echo(upgraded).await;
            }
            drop((exchange, guard));
        };
        spawner.spawn(echo).detach();
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        // The answer to the one key that `load` sends; HAProxy looks.
        let accept = HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        return response;
    }
    Response::new(Body::from(Bytes::from_static(BODY)))
}

struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Large {
    left: u64,
    piece: Bytes,
}

impl http_body::Body for Large {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let count = self.left.min(PIECE as u64);
        if count == 0 {
            return Poll::Ready(None);
        }
        self.left -= count;
        Poll::Ready(Some(Ok(Frame::data(self.piece.slice(..count as usize)))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

struct Events {
    timer: Timer,
    _open: Open,
}

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let tick = smol::stream::Stream::poll_next(Pin::new(&mut self.timer), context);
        let event = Bytes::from_static(b"data: 0123456789\n\n");
        tick.map(|_| Some(Ok(Frame::data(event))))
    }
}

async fn echo(mut stream: Upgraded) {
    loop {
        let mut space = [std::mem::MaybeUninit::uninit(); 4096];
        let mut buffer = ReadBuf::uninit(&mut space);
        let read = std::future::poll_fn(|context| {
            Pin::new(&mut stream).poll_read(context, buffer.unfilled())
        });
        if read.await.is_err() || buffer.filled().is_empty() {
            return;
        }
        let mut left = buffer.filled();
        while !left.is_empty() {
            let written =
                std::future::poll_fn(|context| Pin::new(&mut stream).poll_write(context, left));
            match written.await {
                Ok(count) => left = &left[count..],
                Err(_) => return,
            }
        }
    }
}
