//! A daemon under test, and a client that reads every byte it sends.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use support::Daemon;
use support::daemon::Builder;
use support::eventually;

/// Longer than anything here takes on a busy machine; whatever waits for it has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running execd.
pub struct Execd {
    pub daemon: Daemon,
    pub address: SocketAddr,
}

/// Execd on a port of its own, to be told more. It waits for nothing at its end.
pub fn builder() -> Builder<'static> {
    support::opensandbox!("execd", "--host=127.0.0.1", "--port=0").env("EXECD_DRAIN_TIMEOUT", "0")
}

/// Ends what runs, which would go on if the daemon were only killed.
impl Drop for Execd {
    fn drop(&mut self) {
        if !self.daemon.has_ended() && !std::thread::panicking() {
            self.daemon.signal(rustix::process::Signal::TERM);
            self.daemon.wait(PATIENCE);
        }
    }
}

impl Execd {
    pub fn start() -> Self {
        Self::of(builder())
    }

    /// Starts what was prepared; it must log at the usual level.
    pub fn of(builder: Builder<'_>) -> Self {
        let daemon = builder.ready_when_line("execd listening on").spawn();
        let listening = |line: &Value| {
            let text = line["msg"].as_str()?;
            let port = text.strip_prefix("execd listening on :")?;
            port.strip_suffix(" (IPv4)")?.parse().ok()
        };
        let line = daemon.wait_for_line(PATIENCE, |line| listening(line).is_some());
        let port: u16 = listening(&line).unwrap();
        Self {
            daemon,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
        }
    }

    /// Sends a request over a connection of its own and reads the head of the answer.
    pub fn open(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
        Answer::of(self.address, method, path, headers, body).unwrap()
    }

    /// Sends a request over a connection of its own and reads the whole answer.
    pub fn call(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Whole {
        self.open(method, path, headers, body).whole()
    }

    pub fn get(&self, path: &str) -> Whole {
        self.call("GET", path, &[], "")
    }

    pub fn post(&self, path: &str, body: &Value) -> Whole {
        self.call("POST", path, &[], &body.to_string())
    }

    pub fn delete(&self, path: &str) -> Whole {
        self.call("DELETE", path, &[], "")
    }

    /// Begins to run a command in the foreground.
    pub fn begin(&self, command: &Value) -> Events {
        let answer = self.open("POST", "/command", &[], &command.to_string());
        assert_eq!(answer.status, 200, "{:?}", answer.headers);
        Events(answer)
    }

    /// Runs a command in the foreground to its end.
    pub fn run(&self, command: &str) -> Run {
        self.run_as(&json!({ "command": command }))
    }

    pub fn run_as(&self, request: &Value) -> Run {
        Run::of(self.begin(request))
    }

    /// Runs a command in the background, and gives its id.
    pub fn run_in_background(&self, command: &str) -> String {
        let request = json!({"command": command, "background": true});
        Run::of(self.begin(&request)).id()
    }

    /// Makes a session.
    pub fn session(&self) -> String {
        let created = self.call("POST", "/session", &[], "");
        assert_eq!(created.status, 200, "{created:?}");
        created.json()["session_id"].as_str().unwrap().to_owned()
    }

    /// Runs a text in a session to its end.
    pub fn run_in(&self, session: &str, command: &str) -> Run {
        Run::of(self.begin_in(session, &json!({ "command": command })))
    }

    pub fn begin_in(&self, session: &str, request: &Value) -> Events {
        let path = format!("/session/{session}/run");
        let answer = self.open("POST", &path, &[], &request.to_string());
        assert_eq!(answer.status, 200, "{:?}", answer.headers);
        Events(answer)
    }

    /// Waits until a command has ended, and gives its status.
    pub fn ended(&self, id: &str) -> Value {
        eventually(|| {
            let status = self.get(&format!("/command/status/{id}"));
            assert_eq!(status.status, 200, "{status:?}");
            let status = status.json();
            (status["running"] == false).then_some(status)
        })
    }
}

/// Whether a process has ended, collected or not.
pub fn is_gone(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| stat.contains(") Z "))
        || !std::path::Path::new("/proc").join(pid).exists()
}

/// An answer whose head has arrived.
pub struct Answer {
    pub status: u16,
    /// As received.
    pub headers: Vec<String>,
    body: Framing,
    stream: BufReader<TcpStream>,
}

enum Framing {
    Length(usize),
    Chunked,
    /// Up to the end of the connection.
    Close,
}

impl Answer {
    pub fn of(
        address: SocketAddr,
        method: &str,
        path: &str,
        headers: &[&str],
        body: &str,
    ) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let extra: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n{extra}\r\n"
        );
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
        let mut stream = BufReader::new(stream);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_owned()),
            }
        }
        let status = head[0].split(' ').nth(1).unwrap().parse().unwrap();
        let headers = head.split_off(1);
        let length = find(&headers, "content-length");
        let framing = match (length, find(&headers, "transfer-encoding")) {
            (_, Some("chunked")) => Framing::Chunked,
            (Some(length), _) => Framing::Length(length.parse().unwrap()),
            (None, _) => Framing::Close,
        };
        Ok(Self {
            status,
            headers,
            body: framing,
            stream,
        })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The next piece of the body as it was sent; none at its end.
    pub fn piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        let length = match self.body {
            Framing::Length(length) => length,
            Framing::Close => {
                let mut rest = Vec::new();
                self.stream.read_to_end(&mut rest)?;
                return Ok((!rest.is_empty()).then_some(rest));
            }
            Framing::Chunked => {
                let mut line = String::new();
                self.stream.read_line(&mut line)?;
                if line.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                usize::from_str_radix(line.trim_end(), 16).map_err(io::Error::other)?
            }
        };
        let mut piece = vec![0; length];
        self.stream.read_exact(&mut piece)?;
        match self.body {
            Framing::Length(_) => self.body = Framing::Length(0),
            Framing::Chunked => {
                self.stream.read_exact(&mut [0; 2])?;
            }
            Framing::Close => {}
        }
        Ok((length > 0).then_some(piece))
    }

    pub fn whole(mut self) -> Whole {
        let mut body = Vec::new();
        while let Some(piece) = self.piece().unwrap() {
            body.extend(piece);
        }
        Whole {
            status: self.status,
            headers: self.headers,
            body,
        }
    }

    /// Closes the connection, as a client that has died does.
    pub fn abandon(self) {
        // It may be closed already.
        let _ = self.stream.get_ref().shutdown(Shutdown::Both);
    }
}

fn find<'a>(headers: &'a [String], name: &str) -> Option<&'a str> {
    headers.iter().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// A whole answer.
#[derive(Debug)]
pub struct Whole {
    pub status: u16,
    pub headers: Vec<String>,
    pub body: Vec<u8>,
}

impl Whole {
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks status, code and message of an error.
    #[track_caller]
    pub fn assert_error(&self, status: u16, code: &str, message: &str) {
        assert_eq!(self.status, status, "{self:?}");
        let json = "application/json; charset=utf-8";
        assert_eq!(self.header("content-type"), Some(json));
        let expected = json!({"code": code, "message": message}).to_string();
        let message = self.json()["message"].as_str().unwrap().to_owned();
        assert_eq!(
            json!({"code": code, "message": message}).to_string(),
            expected
        );
        // Keys in order, nothing around them.
        assert!(
            self.text()
                .starts_with(&format!(r#"{{"code":"{code}","message":""#))
        );
        assert!(self.text().ends_with("\"}"));
    }
}

/// A stream of events as it arrives.
pub struct Events(pub Answer);

impl Events {
    /// The next events that came together.
    fn more(&mut self) -> Option<Vec<Value>> {
        let piece = self.0.piece().unwrap()?;
        Some(parse(&piece))
    }

    /// Reads until an event that `is_it` accepts has come, and gives that one.
    pub fn wait_for(&mut self, is_it: impl Fn(&Value) -> bool) -> Value {
        loop {
            let events = self.more().expect("the event before the end");
            if let Some(found) = events.into_iter().find(&is_it) {
                return found;
            }
        }
    }

    /// Reads until this line has come.
    pub fn wait_for_text(&mut self, text: &str) {
        self.wait_for(|event| event["text"] == text);
    }
}

/// Events as the contract frames them: an object and two line feeds each.
fn parse(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).unwrap();
    let objects = text.strip_suffix("\n\n").expect("two line feeds");
    let objects = objects.split("\n\n");
    objects
        .map(|object| {
            assert!(!object.contains('\n'), "{object}");
            serde_json::from_str(object).unwrap_or_else(|error| panic!("{error}: {object}"))
        })
        .collect()
}

/// A stream that has ended, without its pings.
#[derive(Debug)]
pub struct Run {
    pub events: Vec<Value>,
    pub pings: usize,
}

impl Run {
    pub fn of(events: Events) -> Self {
        let whole = events.0.whole();
        let mut events = parse(&whole.body);
        let all = events.len();
        assert_eq!(events[0]["type"], "init", "{events:?}");
        events.retain(|event| event["type"] != "ping");
        for event in &events {
            assert!(event["timestamp"].as_u64().unwrap() > 1_700_000_000_000);
        }
        // Exactly one end, and nothing after it.
        let ends =
            |event: &Value| event["type"] == "error" || event["type"] == "execution_complete";
        let first_end = events.iter().position(ends);
        assert_eq!(first_end, Some(events.len() - 1), "{events:?}");
        let inits = events.iter().filter(|event| event["type"] == "init");
        assert_eq!(inits.count(), 1, "{events:?}");
        Self {
            pings: all - events.len(),
            events,
        }
    }

    pub fn id(&self) -> String {
        self.events[0]["text"].as_str().unwrap().to_owned()
    }

    /// The texts of one stream.
    pub fn lines(&self, stream: &str) -> Vec<&str> {
        let events = self.events.iter().filter(|event| event["type"] == stream);
        events
            .map(|event| event["text"].as_str().unwrap())
            .collect()
    }

    pub fn stdout(&self) -> Vec<&str> {
        self.lines("stdout")
    }

    /// The last event.
    pub fn end(&self) -> &Value {
        self.events.last().unwrap()
    }

    #[track_caller]
    pub fn assert_complete(&self) {
        assert_eq!(self.end()["type"], "execution_complete", "{self:?}");
    }

    /// Checks that it failed with this value, and this first line of its traceback.
    #[track_caller]
    pub fn assert_failed(&self, value: &str, traceback: &str) {
        let end = self.end();
        assert_eq!(end["type"], "error", "{self:?}");
        assert_eq!(end["error"]["ename"], "CommandExecError");
        assert_eq!(end["error"]["evalue"], value, "{self:?}");
        assert_eq!(end["error"]["traceback"][0], traceback, "{self:?}");
    }
}
