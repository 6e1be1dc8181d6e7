"""A gateway that routes as `cortex` does: by what it was told at its last poll, and by nothing else.

It asks the hosts when a test says so, so a test decides how old its readings are. It sends a request once: what a host
refuses goes to the client, and so does a failure of the network, as 502. It tries no other host.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import httpx
from msgspec import DecodeError

from tests.fakes.wire_shapes import read_health, read_models
from tests.patience import PATIENCE_S

__all__ = ("Answer", "RoutingGateway")

_STRIKES: Final = 3
"""A host that has not answered so many polls in a row is unhealthy. Hosts begin as unhealthy."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client of the gateway gets. `host` is the name of the host that was asked, if one was."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    host: str | None = None


@dataclass(frozen=True, slots=True)
class _Reading:
    """What one host said at its last poll that was answered. `missed` polls were not, since then."""

    status_of: Mapping[str, str] = field(default_factory=dict)
    load_of: Mapping[str, int] = field(default_factory=dict)
    missed: int = _STRIKES

    @property
    def is_healthy(self) -> bool:
        return self.missed < _STRIKES


class RoutingGateway:
    """Routes to the hosts `urls`, by their names. Its methods may be called in any thread; one thread polls."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        self._clients = {
            name: httpx.Client(base_url=url, timeout=PATIENCE_S, trust_env=False) for name, url in urls.items()
        }
        self._readings: Mapping[str, _Reading] = dict.fromkeys(urls, _Reading())

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def poll(self) -> None:
        """Ask every host, one after the other."""
        self._readings = {name: self._look(name) for name in self._clients}

    def hosts_of(self, model_id: str) -> list[str]:
        """The names of the hosts to which a request may go now, the least busy first."""
        routable = [
            (reading.load_of.get(model_id, 0), name)
            for name, reading in self._readings.items()
            if reading.is_healthy and reading.status_of.get(model_id) == "loaded"
        ]
        return [name for _, name in sorted(routable)]

    def ask(self, path: str, body: dict[str, Any]) -> Answer:
        """Send one request of a client to one host, and return the whole answer."""
        model_id = body["model"]
        hosts = self.hosts_of(model_id)
        if not hosts:
            return self._refuse(model_id)
        client = self._clients[hosts[0]]
        try:
            endpoint = client.get(f"/models/{model_id.replace('/', '%2F')}/endpoint")
            if endpoint.status_code != HTTPStatus.OK:
                return Answer(HTTPStatus.NOT_FOUND, endpoint.content, host=hosts[0])
            answer = client.post(path, json=body)
        except httpx.HTTPError as error:
            return Answer(HTTPStatus.BAD_GATEWAY, repr(error).encode(), host=hosts[0])
        return Answer(answer.status_code, answer.content, answer.headers, hosts[0])

    def _look(self, name: str) -> _Reading:
        client, before = self._clients[name], self._readings[name]
        try:
            listed = client.get("/models")
            listed.raise_for_status()
            status_of = {model.id: model.status for model in read_models(listed.content) if _is_servable(model)}
        except (httpx.HTTPError, DecodeError):
            return _Reading(before.status_of, before.load_of, before.missed + 1)
        try:
            health = read_health(client.get("/health").content)
        except (httpx.HTTPError, DecodeError):
            return _Reading(status_of, before.load_of, missed=0)
        return _Reading(status_of, {load.id: load.in_flight + load.queue_depth for load in health.models}, missed=0)

    def _refuse(self, model_id: str) -> Answer:
        healthy: Sequence[_Reading] = [reading for reading in self._readings.values() if reading.is_healthy]
        if not healthy:
            return Answer(HTTPStatus.SERVICE_UNAVAILABLE, b"no healthy host", {"retry-after": "5"})
        if any(reading.status_of.get(model_id) == "recovering" for reading in healthy):
            return Answer(HTTPStatus.SERVICE_UNAVAILABLE, b"recovering", {"retry-after": "2"})
        return Answer(HTTPStatus.NOT_FOUND, b"model_not_found")


def _is_servable(model: Any) -> bool:
    return not model.servable or model.servable.ok
