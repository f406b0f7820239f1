//! A scripted HTTP/1.1 endpoint and a one-request client, both by hand.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::watch::Watch;

/// How long the client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a waiting server looks whether it was stopped.
const POLL: Duration = Duration::from_millis(20);

/// What one request meets.
#[derive(Clone, Debug)]
pub enum Reply {
    /// This status, these header lines, this body.
    Status(u16, Vec<String>, String),
    /// The answer never comes.
    Hang,
    /// The connection is closed without an answer.
    Close,
}

impl Reply {
    /// This status and an empty body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::Status(status, Vec::new(), String::new())
    }
}

/// One request that was received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Method and target, as in `POST /path`.
    pub line: String,
    /// Header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Request {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

#[derive(Default)]
struct State {
    replies: VecDeque<Reply>,
    otherwise: Option<Reply>,
    requests: Vec<Request>,
}

/// A running endpoint; stops when dropped.
pub struct Endpoint {
    state: Arc<Watch<State>>,
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
}

impl Endpoint {
    /// Listens on a port of 127.0.0.1. Requests beyond the script are answered 200, unless
    /// [`otherwise`](Self::otherwise) says so.
    ///
    /// # Panics
    ///
    /// When there is no port.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let endpoint = Self {
            state: Arc::default(),
            address: listener.local_addr().expect("its address"),
            stopped: Arc::default(),
        };
        let (state, stopped) = (endpoint.state.clone(), endpoint.stopped.clone());
        std::thread::spawn(move || accept(&listener, &state, &stopped));
        endpoint
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next requests meet these replies, in order.
    pub fn script(&self, replies: impl IntoIterator<Item = Reply>) {
        self.state.update(|state| state.replies.extend(replies));
    }

    /// Requests beyond the script meet this reply.
    pub fn otherwise(&self, reply: Reply) {
        self.state.update(|state| state.otherwise = Some(reply));
    }

    /// Every request so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.state.lock().requests.clone()
    }

    /// Waits until `count` requests came.
    ///
    /// # Panics
    ///
    /// When they do not in time.
    #[must_use]
    pub fn wait_for(&self, count: usize) -> Vec<Request> {
        let enough =
            |state: &mut State| (state.requests.len() >= count).then(|| state.requests.clone());
        let found = self.state.wait(PATIENCE, enough);
        found.unwrap_or_else(|| panic!("not {count} requests: {:?}", self.requests()))
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

fn accept(listener: &TcpListener, state: &Arc<Watch<State>>, stopped: &Arc<AtomicBool>) {
    listener.set_nonblocking(true).expect("non-blocking accept");
    while !stopped.load(Ordering::Relaxed) {
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        };
        let (state, stopped) = (state.clone(), stopped.clone());
        // An error is the client's end of the connection.
        std::thread::spawn(move || serve(stream, &state, &stopped).unwrap_or_default());
    }
}

fn serve(stream: TcpStream, state: &Watch<State>, stopped: &AtomicBool) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let request = read(&mut reader)?;
        let reply = state.update(|state| {
            state.requests.push(request);
            state.replies.pop_front().or(state.otherwise.clone())
        });
        match reply.unwrap_or_else(|| Reply::status(200)) {
            Reply::Status(status, headers, body) => {
                let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
                let length = body.len();
                write!(
                    &stream,
                    "HTTP/1.1 {status} Scripted\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
                )?;
            }
            Reply::Close => return Ok(()),
            Reply::Hang => {
                while !stopped.load(Ordering::Relaxed) {
                    std::thread::sleep(POLL);
                }
                return Ok(());
            }
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> io::Result<Request> {
    let mut request = Request::default();
    let mut first = true;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if std::mem::take(&mut first) {
            let (target, _version) = line.rsplit_once(' ').unwrap_or((line, ""));
            target.clone_into(&mut request.line);
        } else if let Some((name, value)) = line.split_once(':') {
            let header = (name.to_ascii_lowercase(), value.trim().to_owned());
            request.headers.push(header);
        }
    }
    let length = request.header("content-length").unwrap_or("0");
    let length = length.parse().map_err(io::Error::other)?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    request.body = String::from_utf8_lossy(&body).into_owned();
    Ok(request)
}

/// An HTTP answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header lines as received.
    pub headers: Vec<String>,
    /// The body as received, chunked framing included.
    pub body: String,
}

impl Response {
    /// The value of a header, whatever the case of its name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// `GET path`, over a connection of its own.
///
/// # Errors
///
/// Connecting, or an answer that is no HTTP.
pub fn get(address: SocketAddr, path: &str) -> io::Result<Response> {
    request(address, "GET", path, &[], "")
}

/// One HTTP/1.1 request over a connection of its own, for the address it goes to unless `headers`
/// name another host.
///
/// # Errors
///
/// Connecting, or an answer that is no HTTP.
pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> io::Result<Response> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut extra: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let is_host = |(name, _): &(&str, &str)| name.eq_ignore_ascii_case("host");
    if !headers.iter().any(is_host) {
        extra = format!("Host: {address}\r\n{extra}");
    }
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nConnection: close\r\n\
         Content-Length: {}\r\n{extra}\r\n{body}",
        body.len()
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let no_http = || io::Error::from(io::ErrorKind::InvalidData);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(no_http)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let status = status.and_then(|status| status.parse().ok());
    Ok(Response {
        status: status.ok_or_else(no_http)?,
        headers: lines.map(str::to_owned).collect(),
        body: body.to_owned(),
    })
}

/// A connection that is kept open from one request to the next, and reads bodies as they come.
pub struct Connection {
    reader: BufReader<TcpStream>,
    host: String,
    left: Left,
}

/// What is still to come of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Bytes(usize),
    Chunks,
    Nothing,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    ///
    /// Nobody listens there.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            reader: BufReader::with_capacity(64 * 1024, stream),
            host: address.to_string(),
            left: Left::Nothing,
        })
    }

    /// How long reading waits; for ever, if not set.
    ///
    /// # Errors
    ///
    /// The system refuses.
    pub fn patience(&self, timeout: Duration) -> io::Result<()> {
        self.reader.get_ref().set_read_timeout(Some(timeout))
    }

    /// Sends a request and reads the head of the answer, whose body is still to be read.
    ///
    /// # Errors
    ///
    /// The connection ends, or the answer is no HTTP.
    pub fn send(&mut self, method: &str, path: &str, body: &str) -> io::Result<Response> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n{body}",
            self.host,
            body.len()
        );
        self.reader.get_mut().write_all(request.as_bytes())?;
        let status = self.line()?;
        let status = status.split(' ').nth(1).and_then(|word| word.parse().ok());
        let mut response = Response {
            status: status.ok_or(io::ErrorKind::InvalidData)?,
            headers: Vec::new(),
            body: String::new(),
        };
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            response.headers.push(line);
        }
        let length = response.header("content-length");
        self.left = match length.and_then(|length| length.parse().ok()) {
            Some(length) => Left::Bytes(length),
            None => Left::Chunks,
        };
        Ok(response)
    }

    /// Gives `take` the next piece of the body; false at its end.
    ///
    /// # Errors
    ///
    /// The connection ends before the body does.
    pub fn piece(&mut self, take: impl FnOnce(&[u8])) -> io::Result<bool> {
        let length = match self.left {
            Left::Nothing | Left::Bytes(0) => 0,
            Left::Bytes(length) => length,
            Left::Chunks => {
                let size = self.line()?;
                let size = size.split(';').next().unwrap_or_default();
                usize::from_str_radix(size, 16).map_err(io::Error::other)?
            }
        };
        let mut piece = vec![0; length];
        self.reader.read_exact(&mut piece)?;
        if self.left == Left::Chunks {
            self.line()?;
        }
        if length == 0 || self.left != Left::Chunks {
            self.left = Left::Nothing;
        }
        if length > 0 {
            take(&piece);
        }
        Ok(length > 0)
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send) and [`piece`](Self::piece).
    pub fn request(&mut self, method: &str, path: &str, body: &str) -> io::Result<Response> {
        let mut response = self.send(method, path, body)?;
        let mut bytes = Vec::new();
        while self.piece(|piece| bytes.extend_from_slice(piece))? {}
        response.body = String::from_utf8_lossy(&bytes).into_owned();
        Ok(response)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.truncate(line.trim_end().len());
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_used_again() {
        let endpoint = Endpoint::start();
        let reply = |body: &str| Reply::Status(201, Vec::new(), body.to_owned());
        endpoint.script([reply("one"), reply(""), reply("three")]);
        let mut connection = Connection::open(endpoint.address()).expect("a connection");
        for body in ["one", "", "three"] {
            let answer = connection
                .request("POST", "/x", "hello")
                .expect("an answer");
            assert_eq!((answer.status, answer.body.as_str()), (201, body));
        }
        assert_eq!(endpoint.requests().len(), 3);
        assert_eq!(endpoint.requests()[2].body, "hello");
    }
}
