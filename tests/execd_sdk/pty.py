"""A terminal over a real WebSocket, as PTY.md has it. Arguments: host:port[/proxy/port], token."""

import json
import struct
import sys
import urllib.error
import urllib.request
from contextlib import ExitStack

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

base, token = sys.argv[1:]
HEADERS = {"X-EXECD-ACCESS-TOKEN": token} if token else {}
PATIENCE = 60
OPEN = ExitStack()


def rest(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{base}{path}", data, HEADERS, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def socket(path, headers):
    """A WebSocket, closed at the end of this program if not before."""
    connecting = connect(
        f"ws://{base}{path}",
        additional_headers=headers,
        open_timeout=PATIENCE,
        close_timeout=PATIENCE,
        max_size=None,
    )
    return OPEN.enter_context(connecting)


class Terminal:
    """A connection to the terminal of a session, and everything it has shown."""

    def __init__(self, session, query=""):
        self.socket = socket(f"/pty/{session}/ws{query}", HEADERS)
        self.shown = {1: b"", 2: b""}
        self.replay = None
        self.frames = []
        while self.frame().get("type") != "connected":
            pass
        self.mode = self.frames[-1]["mode"]
        assert self.frames[-1]["session_id"] == session

    def frame(self):
        """The next frame, also kept."""
        message = self.socket.recv(timeout=PATIENCE)
        if isinstance(message, str):
            assert message.endswith("\n"), message
            frame = json.loads(message)
        elif message[0] == 3:
            (offset,) = struct.unpack(">Q", message[1:9])
            self.replay = (offset, message[9:])
            frame = {"type": "replay"}
        else:
            self.shown[message[0]] += message[1:]
            frame = {"type": "output"}
        self.frames.append(frame)
        return frame

    def until(self, wanted, channel=1):
        while wanted not in self.shown[channel]:
            self.frame()

    def send(self, **frame):
        self.socket.send(json.dumps(frame))

    def type(self, text):
        self.socket.send(b"\x00" + text.encode())

    def end(self):
        """The exit code, and how the connection was closed."""
        while True:
            frame = self.frame()
            if frame["type"] == "exit":
                break
        try:
            self.socket.recv(timeout=PATIENCE)
        except ConnectionClosed as closed:
            return frame["exit_code"], closed.rcvd.code, closed.rcvd.reason
        raise AssertionError("a frame after the exit")


def new(**body):
    status, answer = rest("POST", "/pty", body)
    assert status == 201, answer
    return answer["session_id"]


def terminal_mode():
    session = new(cwd="/tmp")
    assert rest("GET", f"/pty/{session}")[1]["running"] is False
    one = Terminal(session)
    assert one.mode == "pty" and one.replay is None
    one.type("echo $((20+1))-done; pwd\n")
    one.until(b"21-done")
    one.until(b"/tmp")
    one.send(type="resize", cols=120, rows=40)
    one.type("stty size\n")
    one.until(b"40 120")
    one.send(type="stdin", data="echo te''xt\n")
    one.until(b"text\r\n")
    one.send(type="ping")
    while one.frame()["type"] != "pong":
        pass
    one.send(type="nonsense")
    while one.frame()["type"] != "error":
        pass
    assert one.frames[-1]["code"] == "INVALID_FRAME", one.frames[-1]
    # Ctrl-C and the signal frame reach what runs in the foreground, and the shell lives on.
    for interrupt in (lambda: one.type("\x03"), lambda: one.send(type="signal", signal="SIGINT")):
        one.shown[1] = b""
        # The job itself says that it has begun: the shell does before it is in the foreground.
        one.type("sh -c \"echo sta''rted; exec sleep 300\"; echo code $?\n")
        one.until(b"started\r\n")
        interrupt()
        one.type("echo st''ill here\n")
        one.until(b"still here")
        assert b"code 0" not in one.shown[1]

    # A second client is refused, and the first is not disturbed.
    status, answer = rest("GET", f"/pty/{session}")
    assert status == 200 and answer["running"] is True and answer["output_offset"] > 0, answer
    try:
        Terminal(session)
    except InvalidStatus as refused:
        assert refused.response.status_code == 409
        assert json.loads(refused.response.body)["code"] == "ALREADY_CONNECTED"
    else:
        raise AssertionError("two writers")

    # A takeover sees everything from the beginning, and has the same shell.
    one.type("SECRET=kept; echo s''et\n")
    one.until(b"set\r\n")
    two = Terminal(session, "?takeover=1&since=0")
    offset, replayed = two.replay
    assert offset == 0 and b"21-done" in replayed, two.replay
    assert two.frames[0]["type"] == "replay", two.frames
    try:
        while True:
            one.frame()
    except ConnectionClosed as closed:
        assert (closed.rcvd.code, closed.rcvd.reason) == (4001, "TAKEN_OVER"), closed
    two.type("echo $SECRET-still\n")
    two.until(b"kept-still")

    # A client that goes and comes back misses nothing and sees nothing twice.
    two.socket.close()
    seen = offset + len(replayed) + len(two.shown[1])
    three = Terminal(session, f"?since={seen}")
    assert three.replay is None or three.replay[0] == seen, (three.replay, seen)

    # All output comes before the end.
    three.type("seq 20000; exit 42\n")
    assert three.end() == (42, 1000, "process exited")
    assert b"\r\n19999\r\n20000\r\n" in three.shown[1]
    assert rest("GET", f"/pty/{session}")[1]["running"] is False
    assert rest("DELETE", f"/pty/{session}")[0] == 200
    status, answer = rest("GET", f"/pty/{session}")
    assert status == 404 and answer["code"] == "CONTEXT_NOT_FOUND", answer


def pipe_mode():
    session = new()
    one = Terminal(session, "?pty=0")
    assert one.mode == "pipe"
    one.type("echo out; echo err >&2\n")
    one.until(b"out\n", 1)
    one.until(b"err\n", 2)
    assert one.shown == {1: b"out\n", 2: b"err\n"}, one.shown
    one.type("exit 3\n")
    assert one.end() == (3, 1000, "process exited")
    rest("DELETE", f"/pty/{session}")


def command_and_delete():
    session = new(command="printf 'esc\\033[1m\\0'; exit 5")
    one = Terminal(session)
    assert one.end() == (5, 1000, "process exited")
    assert one.shown[1] == b"esc\x1b[1m\0", one.shown
    rest("DELETE", f"/pty/{session}")

    session = new()
    one = Terminal(session)
    assert rest("DELETE", f"/pty/{session}")[0] == 200
    assert one.end()[:2] == (-1, 1000)
    # What is closed is closed at once, on both sides.
    one.socket.close()


def nobody():
    status, answer = rest("GET", "/pty/nobody")
    assert status == 404 and answer["code"] == "CONTEXT_NOT_FOUND", answer
    try:
        socket("/pty/nobody/ws", HEADERS)
    except InvalidStatus as refused:
        assert refused.response.status_code == 404
    else:
        raise AssertionError("a terminal of nobody")
    if token:
        try:
            socket("/pty/nobody/ws", {})
        except InvalidStatus as refused:
            assert refused.response.status_code == 401
        else:
            raise AssertionError("no token needed")


with OPEN:
    terminal_mode()
    pipe_mode()
    command_and_delete()
    nobody()
print("terminals")
