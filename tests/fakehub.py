"""A hub on loopback that speaks as much of the Hugging Face protocol as its client needs, and fails on demand.

In tests: `with fake_hub({"org/name": {"m.gguf": b"GGUF"}}) as hub: hub.fail(Cut(2), times=1)`, the faults being those
of `tests.fakes.hub_faults`. By hand: `python -m tests.fakehub --help`. Writes no file; only `Drip` knows a clock.
"""

import argparse
import fnmatch
import json
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

from tests.fakes.hub_faults import KINDS, REFUSALS, Answer, Drip, Exchange, Fault, Status, hostile_files, parse_fault
from tests.fakes.hub_files import Content, Files, blob_of, cut_out, sibling, tree_entry
from tests.patience import PATIENCE_S

__all__ = ("FakeHub", "fake_hub")

SENT_AT_ONCE_BYTES: Final = 4 << 20
DRIPS_PER_S: Final = 20

MODEL: Final = re.compile(r"/api/models/(?P<repository>.+?)(/(?P<view>revision|tree)/(?P<revision>[^/]+))?")
FILE: Final = re.compile(r"(/cdn)?/(?P<repository>.+?)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
RANGE: Final = re.compile(r"bytes=(?P<first>\d+)-(?P<last>\d*)")


@dataclass(slots=True, eq=False)
class Rule:
    """A fault, the pattern of paths it strikes, and how many times it still does; None means always."""

    fault: Fault
    path: str
    times_left: int | None


@dataclass(slots=True, eq=False)
class FakeHub:
    """What the hub holds, how it fails, and what it saw. Safe to use from any thread.

    `repositories` are the files at the head of `main`, whose commit is `commit` in all of them; `push` adds branches
    and commits. `fault` fails every request, in the words of `parse_fault`. `log` has the requests in the order in
    which they came, `requests` just their `METHOD path`. While `may_answer` is cleared no request is answered;
    `is_asked` is set by the first. `held` counts the answers that a fault had wait for `release`.
    """

    repositories: dict[str, dict[str, Content]]
    token: str | None = None
    private: frozenset[str] = frozenset()
    gated: frozenset[str] = frozenset()
    url: str = ""
    cdn_url: str | None = None
    commit: str = "a" * 40
    fault: int | str | None = None
    requests: list[str] = field(default_factory=list)
    log: list[Exchange] = field(default_factory=list)
    held: int = 0
    may_answer: threading.Event = field(default_factory=threading.Event)
    is_asked: threading.Event = field(default_factory=threading.Event)
    when_done: Callable[[Exchange], None] = lambda _: None
    _rules: list[Rule] = field(default_factory=list)
    _branches: dict[tuple[str, str], str] = field(default_factory=dict)
    _commits: dict[tuple[str, str], Files] = field(default_factory=dict)
    _released: threading.Event = field(default_factory=threading.Event)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _ports: dict[str, int] = field(default_factory=dict)
    _origins: list["_Origin"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.may_answer.set()

    @property
    def tokens(self) -> list[str | None]:
        """The Authorization header of each request."""
        return [asked.authorization for asked in self.log]

    def fail(self, fault: Fault, *, path: str | None = None, times: int | None = None) -> None:
        """Let `fault` strike the answers for paths like `path`, the first `times` times or always.

        Several faults may strike one answer, in the order in which they were added.
        """
        with self._changed:
            self._rules.append(Rule(fault, path or fault.where, times))

    def heal(self) -> None:
        """Forget all faults."""
        with self._changed:
            self.fault = None
            self._rules.clear()

    def push(self, repository: str, files: Files, *, branch: str = "main") -> str:
        """Make `files` the head of a branch and return its commit; older commits stay what they were."""
        with self._changed:
            commit = f"{len(self._commits) + 1:040x}"
            if branch == "main":
                self._commits |= {(name, self.commit): dict(tree) for name, tree in self.repositories.items()}
                self.repositories[repository], self.commit = dict(files), commit
            else:
                self._commits[repository, commit] = dict(files)
                self._branches[repository, branch] = commit
            return commit

    def release(self) -> None:
        """Let all held answers go on, and hold none from now on."""
        self._released.set()
        self.may_answer.set()

    def wait_asked(self, requests: int = 1) -> None:
        """Block until so many requests have come."""
        self.wait_until(lambda: len(self.log) >= requests)

    def wait_held(self, answers: int = 1) -> None:
        """Block until so many answers have had to wait for `release`; what comes before that has been sent."""
        self.wait_until(lambda: self.held >= answers)

    def wait_until(self, predicate: Callable[[], bool]) -> None:
        """Block until `predicate` holds, looking whenever a request or bytes of an answer go by.

        Raises `TimeoutError`.
        """
        with self._changed:
            if not self._changed.wait_for(predicate, PATIENCE_S):
                raise TimeoutError(f"in vain; the hub saw {[str(asked) for asked in self.log]}")

    def up(self) -> None:
        """Listen, on the same ports as before."""
        self._origins = [_Origin(self, name, port) for name, port in self._ports.items()]
        self._ports = {origin.name: origin.server_port for origin in self._origins}

    def down(self) -> None:
        """Close the ports and all connections."""
        for origin in self._origins:
            origin.close()
        self._origins = []

    def _answer(self, asked: Exchange) -> Answer:
        """Decide what to say, faults included."""
        with self._changed:
            answer = self._true_answer(asked)
            for rule in self._rules:
                if rule.times_left != 0 and fnmatch.fnmatchcase(asked.path, rule.path) and rule.fault.touches(answer):
                    rule.times_left = rule.times_left and rule.times_left - 1
                    rule.fault.spoil(answer)
            if self.fault is not None:
                parse_fault(str(self.fault)).spoil(answer)
            asked.status = answer.status
            return answer

    def _true_answer(self, asked: Exchange) -> Answer:
        target, _, query = asked.target.partition("?")
        match = MODEL.fullmatch(target) or FILE.fullmatch(target)
        place = {name: unquote(text) for name, text in match.groupdict("").items()} if match else {}
        repository, file = place.get("repository", ""), place.get("file")
        commit, files = self._checkout(repository, place.get("revision") or "main")
        if refusal := self._refusal(asked, repository, files, file):
            answer = Answer(asked)
            refusal.spoil(answer)
            return answer
        assert files is not None  # or it had been refused
        if file is not None:
            return self._file_answer(asked, f"{repository}/resolve/{commit}/{file}", commit, file, files[file])
        listing: Any = {"id": repository, "modelId": repository, "sha": commit, "tags": [], "downloads": 0, "likes": 0}
        if place["view"] == "tree":
            listing = [tree_entry(name, content) for name, content in files.items()]
        elif "blobs=true" in query.lower():
            listing["siblings"] = [sibling(name, content) for name, content in files.items()]
        else:
            listing["siblings"] = [{"rfilename": name} for name in files]
        answer = Answer(asked, headers={"Content-Type": "application/json"}, body=json.dumps(listing).encode())
        answer.move_on = lambda: self.push(repository, dict.fromkeys(files, b"bytes of a later commit"))
        return answer

    def _checkout(self, repository: str, revision: str) -> tuple[str, Files | None]:
        if revision in {"main", self.commit}:
            return self.commit, self.repositories.get(repository)
        commit = self._branches.get((repository, revision), revision)
        return commit, self._commits.get((repository, commit))

    def _refusal(self, asked: Exchange, repository: str, files: Files | None, file: str | None) -> Status | None:
        is_granted = asked.origin == "cdn" or (self.token and asked.authorization == f"Bearer {self.token}")
        refusals = {
            "no_token": repository in self.private and not is_granted,
            "no_repository": repository not in self.repositories,
            "no_revision": files is None,
            "gated": file is not None and repository in self.gated and not is_granted,
            "no_file": file is not None and file not in (files or ()),
        }
        return next((REFUSALS[name] for name, is_due in refusals.items() if is_due), None)

    def _file_answer(self, asked: Exchange, place: str, commit: str, name: str, content: Content) -> Answer:
        blob = blob_of(name, content)
        answer = Answer(asked, headers={"X-Repo-Commit": commit, "ETag": blob.etag, "Accept-Ranges": "bytes"})
        if blob.lfs:
            answer.headers |= {"X-Linked-Etag": blob.etag, "X-Linked-Size": str(blob.size)}
            if self.cdn_url and asked.origin == "hub":
                answer.status = HTTPStatus.FOUND
                answer.headers["Location"] = f"{self.cdn_url}/cdn/{quote(place)}?signature=fake"
                return answer
        answer.body = answer.whole = cut_out(content, 0, blob.size)
        wanted = RANGE.fullmatch(asked.range or "")
        if wanted and asked.headers.get("If-Range", blob.etag) == blob.etag:
            first, last = int(wanted["first"]), min(int(wanted["last"] or blob.size), blob.size - 1)
            if first > last:
                answer.status, answer.body = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b""
                answer.headers["Content-Range"] = f"bytes */{blob.size}"
            else:
                answer.status, answer.body = HTTPStatus.PARTIAL_CONTENT, cut_out(content, first, last + 1)
                answer.headers["Content-Range"] = f"bytes {first}-{last}/{blob.size}"
        return answer

    def _note(self, asked: Exchange) -> None:
        with self._changed:
            self.log.append(asked)
            self.requests.append(f"{asked.method} {asked.path}")
            self.is_asked.set()
            self._changed.notify_all()

    def _note_sent(self, asked: Exchange, sent_bytes: int) -> None:
        with self._changed:
            asked.sent_bytes += sent_bytes
            self._changed.notify_all()

    def _hold(self) -> None:
        with self._changed:
            self.held += 1
            self._changed.notify_all()
        self._released.wait()


@contextmanager
def fake_hub(
    repositories: Mapping[str, Files],
    *,
    cdn: bool = False,
    token: str | None = None,
    private: Iterable[str] = (),
    gated: Iterable[str] = (),
    port: int = 0,
) -> Iterator[FakeHub]:
    """Serve `{"org/name": {"file": bytes or path}}` while the block runs, on a free port unless told which.

    Only `token` opens `private` repositories and the files of `gated` ones. With `cdn` the bytes of files in large
    file storage come, by redirect, from a second origin.
    """
    trees = {name: dict(files) for name, files in repositories.items()}
    for tree in trees.values():
        for name, content in tree.items():
            blob_of(name, content)  # so that no request waits for the hash of a large file
    hub = FakeHub(trees, token=token, private=frozenset(private), gated=frozenset(gated))
    hub._ports = {"hub": port, "cdn": 0} if cdn else {"hub": port}
    hub.up()
    hub.url = f"http://127.0.0.1:{hub._ports['hub']}"
    hub.cdn_url = f"http://127.0.0.1:{hub._ports['cdn']}" if cdn else None
    try:
        yield hub
    finally:
        hub.down()
        hub.release()


# -------------------------------------------------------------------------------------------------------- sockets


class _Origin(ThreadingHTTPServer):
    """A port that answers as the `hub` or as its `cdn`."""

    daemon_threads = True

    def __init__(self, hub: FakeHub, name: str, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Connection)
        self.hub, self.name = hub, name
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
        for connection in self._open.copy():
            with suppress(OSError):  # it ended meanwhile
                connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # which means that the client has gone
            super().handle_error(request, client_address)


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Origin

    def do_GET(self) -> None:
        hub = self.server.hub
        asked = Exchange(self.server.name, self.command, self.path, self.headers)
        hub._note(asked)
        hub.may_answer.wait()
        try:
            self._say(hub._answer(asked))
        finally:
            hub.when_done(asked)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        pass

    def _say(self, answer: Answer) -> None:
        if answer.hold_after is not None and answer.hold_after < 0:
            self.server.hub._hold()
        self.send_response_only(answer.status)
        if "Transfer-Encoding" not in answer.headers:
            self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(answer)

    def _send_body(self, answer: Answer) -> None:
        """Send the body up to each place where something happens, and let it happen."""
        while answer.is_endless:  # until the client has gone, which is an OSError
            self.wfile.write(b"%x\r\n%b\r\n" % (len(answer.body), answer.read()))
            self.server.hub._note_sent(answer.asked, len(answer.body))
        size, sent = len(answer.body), 0
        for stop in sorted(
            {n for n in (answer.hold_after, answer.cut_after, size) if n is not None and 0 <= n <= size}
        ):
            self._send(answer, sent, stop)
            sent = stop
            if stop == answer.hold_after:
                self.server.hub._hold()
            if stop == answer.cut_after:
                self.close_connection = True
                return

    def _send(self, answer: Answer, start: int, stop: int) -> None:
        rate = answer.bytes_per_s
        step = max(1, rate // DRIPS_PER_S) if rate else SENT_AT_ONCE_BYTES
        for first in range(start, stop, step):
            last = min(first + step, stop)
            self.server.hub._note_sent(answer.asked, last - first)  # first, so that no client knows before the log
            if isinstance(answer.body, bytes):
                self.wfile.write(memoryview(answer.body)[first:last])
            else:
                with answer.body.path.open("rb") as file:
                    self.connection.sendfile(file, answer.body.start + first, last - first)
            if rate:
                time.sleep((last - first) / rate)


# -------------------------------------------------------------------------------------------------------- by hand


def main() -> None:
    """Serve until Ctrl-C or SIGTERM; print the hub's URL, then every request once it is done with."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fakehub",
        description="A Hugging Face hub on loopback that fails on demand.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(("faults:", "  STATUS[:RETRY_AFTER_S]", *map(_usage, KINDS), f"  {', '.join(REFUSALS)}")),
    )
    parser.add_argument(
        "places", nargs="+", type=_files_at, metavar="PLACE", help="ORG/NAME=FILE, or DIR of ORG/NAME/…"
    )
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--token", help="make every repository private: only this token opens it")
    parser.add_argument("--cdn", action="store_true", help="send large files from a second port, by redirect")
    parser.add_argument("--hostile", action="store_true", help="add files that no client should trust")
    parser.add_argument("--rate", type=int, metavar="BYTES_PER_S", help="send files no faster than this")
    parser.add_argument("--fault", type=_strike, action="append", default=[], metavar="FAULT[@TIMES]", help="see below")
    options = parser.parse_args()
    repositories: dict[str, dict[str, Content]] = {}
    for repository, name, content in chain.from_iterable(options.places):
        repositories.setdefault(repository, hostile_files() if options.hostile else {})[name] = content
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before any thread starts, or it could get them
    private = repositories if options.token else ()
    with fake_hub(repositories, cdn=options.cdn, token=options.token, private=private, port=options.port) as hub:
        for fault, times in options.fault:
            hub.fail(fault, times=times)
        if options.rate:
            hub.fail(Drip(options.rate))
        hub.when_done = _say
        _say(hub.url)
        signal.sigwait(ends)


def _usage(name: str) -> str:
    arguments = "".join(f":{argument.upper()}" for argument in KINDS[name].__struct_fields__)
    return f"  {name + arguments:24} {KINDS[name].__doc__}"


def _files_at(place: str) -> list[tuple[str, str, Path]]:
    """Read a place on the command line as (repository, name of a file in it, where that is)."""
    repository, equals, path = place.rpartition("=")
    root = Path(path)
    if equals:
        files = [(repository, root.name, root)] if root.is_file() else []
    else:
        trees = [(tree, tree.relative_to(root).as_posix()) for tree in sorted(root.glob("*/*"))]
        files = [
            (name, f.relative_to(tree).as_posix(), f) for tree, name in trees for f in tree.rglob("*") if f.is_file()
        ]
    if not files:
        raise argparse.ArgumentTypeError(f"no file at {place!r}")
    return files


def _strike(text: str) -> tuple[Fault, int | None]:
    fault, _, times = text.partition("@")
    try:
        return parse_fault(fault), int(times) if times else None
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no fault: {error}") from error


def _say(line: object) -> None:
    sys.stdout.write(f"{line}\n")  # in one piece, as connections end at the same time
    sys.stdout.flush()


if __name__ == "__main__":
    main()
