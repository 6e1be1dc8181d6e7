"""Calls of a daemon: JSON answers and streams of events."""

import contextlib
import http.client
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from neuron_service.client.address import Address
from neuron_service.client.connection import Certificate, open_connection
from neuron_service.client.event_lines import ServerSentEvent, read_events
from neuron_service.client.problem import DaemonProblem
from neuron_service.client.translation import broken, from_answer, no_connection, not_neuron, not_utf8

__all__ = ("Client", "Exchange")

_ANSWER_LIMIT_S: Final = 30.0
_SILENCE_LIMIT_S: Final = 60.0
_LONGEST_ANSWER: Final = 64 << 20
_LONGEST_ERROR: Final = 64 << 10
_LONGEST_LINE: Final = 4 << 20


class Exchange(NamedTuple):
    """An answer. The names in `headers` are found in any case. `body` is its JSON."""

    status: int
    headers: http.client.HTTPMessage
    body: Any


class Client:
    """A client of one daemon. Holds no connection between calls, so there is nothing to close.

    Every method blocks, and raises `DaemonProblem` whatever goes wrong. A client may be used by several threads.
    """

    def __init__(self, address: Address, *, key: str | None = None, certificate: Certificate | None = None) -> None:
        """`key` is the API key, and `certificate` what a service with `tls_client_ca` wants to see."""
        self.address = address
        self._key = key
        self._certificate = certificate

    def get(self, path: str, *, timeout_s: float = _ANSWER_LIMIT_S) -> Any:
        """The JSON answer to a GET of `path`. Each wait for the daemon is at most `timeout_s` long."""
        return self.call("GET", path, timeout_s=timeout_s)

    def post(self, path: str, body: object, *, timeout_s: float = _ANSWER_LIMIT_S) -> Any:
        """The JSON answer to a POST of `body`, which is sent as JSON."""
        return self.call("POST", path, body, timeout_s=timeout_s)

    def call(self, method: str, path: str, body: object = None, *, timeout_s: float = _ANSWER_LIMIT_S) -> Any:
        """The JSON answer to any request. None for an answer without a body."""
        with self._answer(method, path, body, timeout_s=timeout_s) as answer:
            text = self._read(answer, _LONGEST_ANSWER)
            return self._json(text) if text else None

    def exchange(self, method: str, path: str, body: object, *, timeout_s: float = _ANSWER_LIMIT_S) -> Exchange:
        """The answer to a request, also if the daemon refuses it. `DaemonProblem` is raised only if none comes.

        The `body` of a refusal that is no JSON is None.
        """
        with self._any_answer(method, path, body, timeout_s=timeout_s) as answer:
            text = self._read(answer, _LONGEST_ANSWER)
            try:
                body = self._json(text)
            except DaemonProblem:
                if 200 <= answer.status < 300:
                    raise
                body = None  # a proxy refuses in HTML
            return Exchange(status=answer.status, headers=answer.headers, body=body)

    def problem(self, refused: Exchange) -> DaemonProblem:
        """What an answer that is no success means."""
        return from_answer(self.address, refused.status, refused.body, has_key=self._key is not None)

    @contextlib.contextmanager
    def stream(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        silence_s: float = _SILENCE_LIMIT_S,
    ) -> Iterator[Iterator[ServerSentEvent]]:
        """The events of an answer, as they come. The connection is closed at the end of the `with`.

        A daemon that sends nothing for `silence_s`, not even a comment, counts as gone.
        """
        wanted = {"accept": "text/event-stream", **(headers or {})}
        with self._answer(method, path, body, timeout_s=silence_s, headers=wanted) as answer:
            if not (answer.headers.get("content-type") or "").startswith("text/event-stream"):
                raise not_neuron(self.address, "its answer is not a stream of events")
            yield read_events(self._lines(answer))

    @contextlib.contextmanager
    def _answer(
        self,
        method: str,
        path: str,
        body: object,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """The head of an answer of success. Raises `DaemonProblem` for any other answer."""
        with self._any_answer(method, path, body, timeout_s=timeout_s, headers=headers) as answer:
            if not 200 <= answer.status < 300:
                raise self._refusal(answer)
            yield answer

    @contextlib.contextmanager
    def _any_answer(
        self,
        method: str,
        path: str,
        body: object,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """The head of an answer."""
        connection = open_connection(self.address, timeout_s=timeout_s, certificate=self._certificate)
        with contextlib.closing(connection):
            try:
                connection.request(
                    method,
                    self.address.prefix + path,
                    body=None if body is None else json.dumps(body, ensure_ascii=False).encode(),
                    headers={**self._headers(has_body=body is not None), **(headers or {})},
                )
                answer = connection.getresponse()
            except OSError as error:  # RemoteDisconnected is one
                raise self._lost(error) from error
            except http.client.HTTPException as error:
                raise not_neuron(self.address, "its answer is not HTTP") from error
            except UnicodeEncodeError as error:
                raise not_utf8(error) from error
            with answer:
                yield answer

    def _headers(self, *, has_body: bool) -> dict[str, str]:
        headers = {"accept": "application/json", "user-agent": "neuron"}
        if has_body:
            headers["content-type"] = "application/json"
        if self._key is not None:
            headers["x-api-key"] = self._key
        return headers

    def _refusal(self, answer: http.client.HTTPResponse) -> DaemonProblem:
        try:
            body = json.loads(self._read(answer, _LONGEST_ERROR))
        except (ValueError, RecursionError):
            body = None
        return from_answer(self.address, answer.status, body, has_key=self._key is not None)

    def _read(self, answer: http.client.HTTPResponse, limit: int) -> bytes:
        try:
            text = answer.read(limit + 1)
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error) from error
        if len(text) > limit:
            raise not_neuron(self.address, f"its answer has more than {limit} bytes")
        if answer.length:  # bytes of the announced length that did not come
            raise broken(self.address)
        return text

    def _json(self, text: bytes) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise not_neuron(self.address, "its answer is not JSON") from None

    def _lines(self, answer: http.client.HTTPResponse) -> Iterator[str]:
        while True:
            try:
                line = answer.readline(_LONGEST_LINE + 1)
            except (OSError, http.client.HTTPException) as error:
                raise self._lost(error) from error
            if not line and answer.length:
                raise broken(self.address)
            if not line:
                return
            if len(line) > _LONGEST_LINE:
                raise not_neuron(self.address, f"a line of its stream has more than {_LONGEST_LINE} bytes")
            yield line.decode("utf-8", "replace").rstrip("\r\n")

    def _lost(self, error: OSError | http.client.HTTPException) -> DaemonProblem:
        if isinstance(error, http.client.HTTPException | ConnectionResetError | BrokenPipeError):
            return broken(self.address)
        return no_connection(self.address, error)
