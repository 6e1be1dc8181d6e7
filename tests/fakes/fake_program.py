"""A program that serves an OpenAI-style API and misbehaves as it is told: `fake_program.py --port N [--mode MODE]`.

It loads nothing. A reply has a word for each word of the last message. One of the words may be a mode of the reply: see
`speak`. The key that requests must have is in the variable FAKE_KEY.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

FOR_EVER_S = 3600
HANGS = threading.Event()
"""From then on nothing is answered, not even the health probe."""
ASLEEP = threading.Event()
MODES = {"die-first", "die-once", "wait", "slowly", "segv", "kill", "exit", "hang", "stall", "garbage", "cut"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Requests are not logged."""

    def address_string(self) -> str:
        return "somebody"

    def do_GET(self) -> None:
        if HANGS.is_set():
            time.sleep(FOR_EVER_S)
        if self.path == "/v1/models":
            self.answer(200, {"data": [{"id": "fake", "max_model_len": 4096}]})
        else:
            self.answer(200 if self.path == "/health" else 404, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"] or 0))
        key = os.environ.get("FAKE_KEY")
        if key and self.headers["authorization"] != f"Bearer {key}":
            self.answer(401, {"error": {"message": "which key?"}})
        elif self.path == "/sleep":
            ASLEEP.set()
            say("asleep")
            self.answer(200, {})
        elif self.path == "/wake_up":
            ASLEEP.clear()
            say("awake")
            self.answer(200, {})
        elif not self.path.startswith("/v1/"):
            self.answer(404, {})
        elif ASLEEP.is_set():
            self.answer(503, {"error": {"message": "asleep"}})
        else:
            with contextlib.suppress(OSError):  # the client has hung up
                self.speak(json.loads(body))

    def answer(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def speak(self, request: Any) -> None:
        words = request["messages"][-1]["content"].split()
        mode = next((word for word in words if word in MODES), "")
        flag = Path(words[-1]) if mode == "die-once" else None
        if mode == "die-first" or (flag is not None and not flag.exists()):
            if flag is not None:
                flag.touch()
            self.misbehave("kill")
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        if mode == "wait":
            time.sleep(FOR_EVER_S)
        self.chunk(json_chunk(role="assistant"))
        for word in words[: request.get("max_tokens") or 1000]:
            self.chunk(json_chunk(content=f"{word} "))
            if mode == "slowly":
                time.sleep(0.05)
        self.misbehave(mode)
        self.chunk(json_chunk(finish_reason="stop"))
        usage = {"prompt_tokens": len(words), "completion_tokens": len(words), "total_tokens": 2 * len(words)}
        self.chunk({"id": "c", "object": "chat.completion.chunk", "choices": [], "usage": usage})
        self.piece(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def misbehave(self, mode: str) -> None:
        if mode in {"segv", "kill"}:
            os.kill(os.getpid(), signal.SIGSEGV if mode == "segv" else signal.SIGKILL)
            time.sleep(FOR_EVER_S)  # the signal may be for another thread
        elif mode == "exit":
            os._exit(0)
        elif mode == "hang":
            HANGS.set()
            time.sleep(FOR_EVER_S)
        elif mode == "stall":
            time.sleep(FOR_EVER_S)
        elif mode == "garbage":
            self.piece(b"data: {\x00 this is no JSON\n\n")
        elif mode == "cut":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def chunk(self, body: Any) -> None:
        self.piece(b"data: " + json.dumps(body).encode() + b"\n\n")

    def piece(self, content: bytes) -> None:
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")


class OnSocket(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


def json_chunk(*, finish_reason: str | None = None, **delta: str) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "c", "object": "chat.completion.chunk", "choices": [choice]}


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def exits(_folder: Path) -> None:
    sys.stderr.write("no such model: /nowhere\n")
    sys.exit(3)


def talks(_folder: Path) -> None:
    """For longer than it may be still."""
    for number in range(30):
        say(f"loading part {number}")
        time.sleep(0.1)


def computes(_folder: Path) -> None:
    until = time.process_time() + 2.5
    while time.process_time() < until:
        sum(range(1000))


def forks(folder: Path) -> None:
    """One in its group, and one that has left."""
    for name, is_away in (("near", False), ("away", True)):
        child = subprocess.Popen(["/bin/sleep", str(FOR_EVER_S)], start_new_session=is_away)
        (folder / name).write_text(str(child.pid))


STARTS: dict[str, Callable[[Path], object]] = {
    "": lambda _folder: None,
    "exits": exits,
    "exits-well": lambda _folder: sys.exit(0),
    "segv": lambda _folder: os.kill(os.getpid(), signal.SIGSEGV),
    "stuck": lambda _folder: time.sleep(FOR_EVER_S),
    "talks": talks,
    "computes": computes,
    "forks": forks,
    "deaf": lambda _folder: signal.signal(signal.SIGTERM, signal.SIG_IGN),
}
"""How it misbehaves before anybody is listened to."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--socket")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--mode", default="")
    parser.add_argument("--folder", default=".", type=Path)
    parser.add_argument("--once", action="store_true", help="misbehave in the first start only")
    options = parser.parse_args()
    flag = options.folder / "started"
    if not (options.once and flag.exists()):
        if options.once:
            flag.touch()
        say("fake program begins")
        STARTS[options.mode](options.folder)
    server: Any
    if options.socket:
        server = OnSocket(options.socket, Handler)
    else:
        try:
            server = ThreadingHTTPServer((options.host, options.port), Handler)
        except OSError as error:
            sys.exit(f"cannot listen: {error.strerror}")
        server.daemon_threads = True
    say("listening")
    server.serve_forever()


if __name__ == "__main__":
    main()
