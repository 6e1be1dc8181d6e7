"""One chat as its client sees it: asked in a thread of its own, and judged by how it ended.

A request has ended properly when its client can tell what happened: a whole reply, a stream up to `[DONE]`, a refusal
in the error envelope, or an error event with nothing behind it. Anything else is `BROKEN`.
"""

import http.client
import json
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from threading import Event, Thread
from typing import Any

from tests.patience import PATIENCE_S

__all__ = ("CHAT_PATH", "Ending", "Exchange", "Outcome", "judge_stream", "judge_whole")

CHAT_PATH = "/v1/chat/completions"
SILENCE_LIMIT_S = PATIENCE_S
"""A stream says something each second, a whole reply waits for its turn; longer than this is a stall."""
RETRYABLE = frozenset({429, 503})


class Ending(StrEnum):
    """How a request ended for its client."""

    COMPLETE = "complete"
    REFUSED = "refused"
    ERROR_EVENT = "error event"
    HUNG_UP = "hung up"
    BROKEN = "broken"


@dataclass(slots=True, frozen=True)
class Outcome:
    """What a client was told. `detail` says of a broken exchange what is wrong with it."""

    ending: Ending
    status: int | None = None
    code: str = ""
    detail: str = ""
    text: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


def judge_whole(status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """An answer that is one JSON body: a reply or a refusal."""

    def broken(detail: str) -> Outcome:
        return Outcome(Ending.BROKEN, status=status, detail=f"{detail}: {body[:200]!r}", headers=headers)

    try:
        answer = json.loads(body)
    except ValueError:
        return broken("not JSON")
    if status == http.client.OK:
        choices = answer.get("choices") or []
        if not choices or not all(choice.get("finish_reason") for choice in choices):
            return broken("a reply without an end")
        text = "".join(choice["message"].get("content") or "" for choice in choices)
        return Outcome(Ending.COMPLETE, status=status, text=text, headers=headers)
    error = answer.get("error")
    if not isinstance(error, dict) or not (error.get("message") and error.get("type")):
        return broken("a refusal without the error envelope")
    if status in RETRYABLE and not headers.get("retry-after", "").isdigit():
        return broken("a refusal for now that does not say for how long")
    return Outcome(
        Ending.REFUSED, status=status, code=error.get("code") or "", detail=error["message"], headers=headers
    )


def judge_stream(
    lines: Iterable[bytes], *, headers: Mapping[str, str], on_text: Callable[[], None] = lambda: None
) -> Outcome:
    """An answer that is a stream of events, read to its end. `on_text` is called at the first text."""
    text, unfinished, error, is_done = "", True, None, False
    for line in lines:
        if not line.startswith(b"data: "):
            if line.strip() and not line.startswith(b":"):
                return Outcome(Ending.BROKEN, status=200, detail=f"not an event: {line[:200]!r}", text=text)
            continue
        if is_done or error is not None:
            detail = f"something behind the {'end' if is_done else 'error'}: {line[:200]!r}"
            return Outcome(Ending.BROKEN, status=200, detail=detail, text=text)
        payload = line.removeprefix(b"data: ").strip()
        if payload == b"[DONE]":
            is_done = True
            continue
        event = json.loads(payload)
        error = event.get("error")
        for choice in event.get("choices", ()):
            piece = choice["delta"].get("content") or ""
            if piece and not text:
                on_text()
            text += piece
            unfinished = unfinished and not choice.get("finish_reason")
    if error is not None:
        code, message = error.get("code") or "", error.get("message") or ""
        ending = Ending.ERROR_EVENT if error.get("type") and message else Ending.BROKEN
        return Outcome(ending, status=200, code=code, detail=message, text=text, headers=headers)
    if is_done and not unfinished:
        return Outcome(Ending.COMPLETE, status=200, text=text, headers=headers)
    detail = "[DONE] without a finish_reason" if is_done else "the end of the stream without [DONE] or an error"
    return Outcome(Ending.BROKEN, status=200, detail=detail, text=text, headers=headers)


class Exchange:
    """A chat that is under way as soon as it is made.

    `answered` is set with the head of the answer, `has_text` with the first text of a stream.
    """

    def __init__(self, port: int, body: Mapping[str, Any], *, headers: Mapping[str, str] | None = None) -> None:
        self.body = body
        self.answered = Event()
        self.has_text = Event()
        self._headers = {"content-type": "application/json", "connection": "close", **(headers or {})}
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SILENCE_LIMIT_S)
        self._socket: socket.socket | None = None  # the connection forgets its own when the answer begins
        self._hung_up = False
        self._outcome: Outcome | None = None
        self._thread = Thread(target=self._run, name="client", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Exchange {self.body.get('model')} {self._outcome or 'under way'}>"

    @property
    def is_over(self) -> bool:
        return self._outcome is not None

    def outcome(self, *, within_s: float = SILENCE_LIMIT_S) -> Outcome:
        """How it ended; an AssertionError if it does not."""
        self._thread.join(within_s)
        assert self._outcome is not None, f"I3: a request has no end after {within_s} s: {self!r}"
        return self._outcome

    def hang_up(self) -> None:
        """Be gone, as a client whose user has lost patience."""
        self._hung_up = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        try:
            outcome = self._ask()
        except (OSError, http.client.HTTPException, ValueError) as error:
            outcome = Outcome(Ending.BROKEN, detail=repr(error))
        finally:
            self._connection.close()
        self._outcome = Outcome(Ending.HUNG_UP, status=outcome.status) if self._hung_up else outcome

    def _ask(self) -> Outcome:
        self._connection.connect()
        self._socket = self._connection.sock
        self._connection.request("POST", CHAT_PATH, json.dumps(self.body), self._headers)
        with self._connection.getresponse() as answer:
            headers = {name.lower(): value for name, value in answer.getheaders()}
            self.answered.set()
            if headers.get("content-type", "").startswith("text/event-stream"):
                return judge_stream(iter(answer.readline, b""), headers=headers, on_text=self.has_text.set)
            return judge_whole(answer.status, headers, answer.read())
