"""What an HTTP API must provide so that the service can answer it: a `Dialect`. Pure; knows no HTTP server.

An API is one pair of modules. One decodes a body into a task and says how its reply is wanted. The other turns the
events of the reply into bytes. An API whose errors do not have OpenAI's shape brings a third module for its errors. The
table of all dialects is `neuron_service.dialects`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

from neuron_lib.errors import NeuronError
from neuron_lib.types import EventBeforeEnd, Finished, GenerationEvent, Principal, Task, Usage
from neuron_lib.wire.http_errors import ErrorAnswer

__all__ = ("Collector", "Decode", "DecodedRequest", "Dialect", "FollowsUsage", "Shapes", "StreamEncoder")

_VERSION: Final = "/v1"


class StreamEncoder(Protocol):
    """Writes one reply as a stream. Lives as long as the reply; used by one task.

    No method waits, so any task may call it. The bytes go to the client in the order of the calls: `opening`, then an
    `event` for each event, then either `ending` or `error`. Empty bytes mean that there is nothing to send.
    """

    def opening(self) -> bytes:
        """The first events, sent when the reply has its seat and the model has not said anything yet."""
        ...

    def event(self, event: EventBeforeEnd) -> bytes:
        """One event of the reply."""
        ...

    def ending(self, finished: Finished) -> bytes:
        """The last events of a reply that ended well."""
        ...

    def error(self, error: NeuronError, usage: Usage) -> bytes:
        """The last events of a reply that was lost half-way. `usage` is what the reply has cost until then."""
        ...


@runtime_checkable
class FollowsUsage(Protocol):
    """A `StreamEncoder` that writes what the reply has cost so far. An encoder need not do this."""

    def follow(self, usage: Callable[[], Usage]) -> None:
        """Take a function that tells what the reply has cost so far. Called once, before `opening`."""
        ...


class Collector(Protocol):
    """Collects one reply for a client that wants it in one piece. Lives as long as the reply; used by one task."""

    def add(self, event: GenerationEvent) -> None:
        """Take the next event of the reply."""
        ...

    def body(self) -> bytes:
        """The body of the answer, which is JSON. Raises `ValueError` before `Finished` has been added."""
        ...


class DecodedRequest(Protocol):
    """One request of an API: the task for a model, and how the client wants the reply."""

    @property
    def task(self) -> Task:
        """What the model is asked for."""
        ...

    @property
    def stream(self) -> bool:
        """Whether the client wants a stream: if so `encoder` is called, if not `collector`."""
        ...

    def encoder(self, *, unique: str, created: int) -> StreamEncoder:
        """What writes the stream. `unique` is text for the id of the reply, and no two replies have the same. `created`
        is the Unix time in seconds.
        """
        ...

    def collector(self, *, unique: str, created: int) -> Collector:
        """What writes the whole reply; the arguments are those of `encoder`."""
        ...


class Decode(Protocol):
    """Reads the body of a request."""

    def __call__(self, body: bytes, *, headers: Mapping[str, str], principal: Principal | None) -> DecodedRequest:
        """The request in `body`. Names in `headers` are found in lower case. `principal` is who asks, if that is known.

        Raises `InvalidRequest`, or a class below it, for a body that cannot be read or has a value out of bounds.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """The types of an API's bodies, as the service describes them in `/openapi.json`.

    Each type is one that msgspec decodes or encodes: the very struct that reads the request or writes the answer. A
    field of a struct that stays text (`msgspec.Raw`) says by `neuron_lib.wire.bodies.read_as` what reads it later.
    """

    summary: str
    """What the API does, in one short sentence."""
    request: Any
    """The type of the body of a request."""
    reply: Any
    """The type of a whole reply."""
    event: Any = None
    """The type of the data of each event of a stream, perhaps a union. None if the API has no streams."""
    last_data: str | None = None
    """The data of the last event of a stream, if that is not JSON."""
    error: Any = None
    """The type of an error's body. None if it is OpenAI's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One HTTP API, answered to `POST` at each of its `paths`. Lives as long as the program."""

    path: str
    """The path of the API in its documentation."""
    error: Callable[[NeuronError], ErrorAnswer]
    """The answer to a request of this API that is refused. Also called for unknown methods, for bodies that are too
    large and for all other requests that never reach `decode`. Needed before the first request, so its module must
    import little.
    """
    load: Callable[[], Decode]
    """Imports what reads and writes the bodies, and returns it. Called when the routes are built. Probes are answered
    before that, and must not wait for this import.
    """
    shapes: Callable[[], Shapes] | None = None
    """Imports the types of the bodies. Called when the description of the service is first asked for."""
    id_header: str | None = None
    """The header in which clients of the API look for the request's id, in small letters. None if that is
    `x-request-id`, which every answer has.
    """

    @property
    def paths(self) -> tuple[str, ...]:
        """The `path`, and also the part behind its `/v1`. All paths below these have the same shape of errors.

        Some clients are given the address of the host and not that of the API.
        """
        return self.path, *([self.path.removeprefix(_VERSION)] if self.path.startswith(f"{_VERSION}/") else ())
