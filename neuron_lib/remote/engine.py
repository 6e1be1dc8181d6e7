"""A model at another server, from the moment at which the server has it until it is lost."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import quote

import anyio
from msgspec.structs import replace

from neuron_lib.errors import LoadFailed, SourceUnavailable, first_leaf
from neuron_lib.remote.entry import RemoteEntry, RemoteModel
from neuron_lib.remote.listing import Listed, facts_of_neuron, find, has_model, names_of
from neuron_lib.remote.look import Look, see
from neuron_lib.remote.watch import Watch
from neuron_lib.shown import clip
from neuron_lib.types import ModelLimit
from neuron_lib.upstream.address import UpstreamAddress
from neuron_lib.upstream.api import APIS, NEURON
from neuron_lib.upstream.client import Silent, Unreachable, UpstreamClient, UpstreamLimits
from neuron_lib.upstream.connection import ConnectionLost
from neuron_lib.upstream.engine import UpstreamEngine
from neuron_lib.upstream.facts import UpstreamFacts
from neuron_lib.upstream.refusals import refusal_of

__all__ = ("RemoteEngine", "has_listed", "open_remote")

_LIST: Final = "/v1/models"
_LOOK_LIMIT_S: Final = 10.0
_DOUBT_S: Final = 0.5
"""The next look after one that shows the server away."""
_HEARD_S: Final = 5.0
"""A reply of which a piece came within this time is under way."""
_MOST_LIST_BYTES: Final = 4 << 20


@asynccontextmanager
async def open_remote(
    entry: RemoteEntry, address: UpstreamAddress, stated: RemoteModel, *, model_id: str, tls: ssl.SSLContext | None
) -> AsyncIterator["RemoteEngine"]:
    """A server that is looked at until the block ends. See `RemoteEngine.wait_ready`."""
    client = UpstreamClient(address, limits=_limits(entry), tls=tls)
    engine = RemoteEngine(entry, stated, model_id=model_id, client=client)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(engine.watch)
            try:
                yield engine
            finally:
                tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:  # the supervisor asks which error it is
        leaf = first_leaf(group)
        raise leaf from leaf.__cause__
    finally:
        engine.bury("the model was unloaded")
        with anyio.CancelScope(shield=True):
            await client.aclose()


async def has_listed(
    entry: RemoteEntry, address: UpstreamAddress, *, model_id: str, tls: ssl.SSLContext | None
) -> bool:
    """Whether the server lists the model of `address`. Raises `SourceUnavailable` if the server gives no list."""
    client = UpstreamClient(address, limits=_limits(entry), tls=tls)
    try:
        status, body = await _get(client, _LIST)
    except (Unreachable, ConnectionLost) as error:
        text = f"{model_id}: the server at {address.shown} cannot be reached: {error}"
        raise SourceUnavailable(text, model_id=model_id) from error
    finally:
        with anyio.CancelScope(shield=True):
            await client.aclose()
    if status != 200:
        text = f"{model_id}: the server at {address.shown} answers {status} to GET {_LIST}"
        raise SourceUnavailable(text, model_id=model_id)
    return has_model(body, address.model)


def _limits(entry: RemoteEntry) -> UpstreamLimits:
    return UpstreamLimits(
        connect_s=entry.connect_timeout_secs,
        silence_s=entry.silence_timeout_secs,
        reply_s=entry.reply_timeout_secs,
    )


async def _get(client: UpstreamClient, path: str) -> tuple[int, bytes]:
    """Status and body. Raises `Unreachable` and `ConnectionLost`."""
    with anyio.move_on_after(_LOOK_LIMIT_S):
        exchange = await client.send("GET", path)
        async with exchange:
            body = await exchange.read_whole(most_bytes=_MOST_LIST_BYTES)
            return exchange.head.status, client.address.without_token(body)
    raise ConnectionLost(f"no answer within {_LOOK_LIMIT_S:g} s")


class RemoteEngine(UpstreamEngine):
    """See `UpstreamEngine`. Nothing of it takes memory of this host."""

    def __init__(self, entry: RemoteEntry, stated: RemoteModel, *, model_id: str, client: UpstreamClient) -> None:
        """`stated` is what the configuration says about the model."""
        super().__init__(model_id=model_id, client=client)
        self._entry: Final = entry
        self._stated: Final = stated
        self._facts: UpstreamFacts | None = None
        self._listed: Listed | None = None
        self._is_ready = anyio.Event()
        self._look_now = anyio.Event()

    @property
    def facts(self) -> UpstreamFacts:
        assert self._facts is not None  # known once it is ready
        return self._facts

    def doubt(self) -> None:
        self._look_now.set()

    async def wait_ready(self) -> UpstreamFacts:
        """Look at the server once. Raises `LoadFailed` for a server that has not this model or refuses this host, and
        `SourceUnavailable` for one that may have it later.
        """
        try:
            status, body = await self._get(_LIST)
        except (Unreachable, ConnectionLost) as error:
            raise self._unavailable(f"the server at {self._where} cannot be reached: {error}") from error
        if status != 200:
            raise self._refused(status, body)
        listed = self._find(body)
        if listed is None:
            raise await self._not_listed(body)
        self._facts, self._listed = await self._read_facts(listed), listed
        self._is_ready.set()
        return self._facts

    async def watch(self) -> None:
        """Look at the server again and again. Ends with its death."""
        await self._is_ready.wait()
        health = self._entry.health
        watch = Watch(limit_s=health.limit_secs, last_good_s=anyio.current_time())
        while self.death is None:
            pause_s = min(_DOUBT_S, health.interval_secs) if watch.is_in_doubt else health.interval_secs
            with anyio.move_on_after(pause_s):
                await self._look_now.wait()
            self._look_now = anyio.Event()
            look, reason = await self._look()
            if watch.take(look, now_s=anyio.current_time(), is_heard=self.client.is_heard(_HEARD_S)):
                if look is Look.REFUSES:  # it lives, so no request has ended it
                    self.client.at_work.clear()
                self.die(f"the server at {self._where} is lost: {reason}")

    async def _look(self) -> tuple[Look, str]:
        try:
            status, body = await self._get(_LIST)
        except (Silent, ConnectionLost) as error:
            return Look.UNWELL, str(error)
        except Unreachable as error:
            return Look.AWAY, str(error)
        seen = see(status, body, self.client.address.model)
        if seen.listed is not None:
            if self._listed is None or seen.listed.is_other_load(self._listed):
                self._facts = await self._read_facts(seen.listed)
            self._listed = seen.listed
        return seen.look, seen.reason

    async def _get(self, path: str) -> tuple[int, bytes]:
        """Status and body. Raises `Unreachable` and `ConnectionLost`."""
        return await _get(self.client, path)

    # ------------------------------------------------------------------------------------------------ what it has said

    def _find(self, body: bytes) -> Listed | None:
        try:
            return find(body, self.client.address.model)
        except ValueError as error:
            text = (
                f"the server at {self._where} has no API like OpenAI's: its answer to GET {_LIST} is no list of models"
            )
            raise LoadFailed(text, model_id=self.model_id) from error

    async def _not_listed(self, body: bytes) -> LoadFailed | SourceUnavailable:
        """A neuron lists a model when it serves, and says of one that it will."""
        model = self.client.address.model
        try:
            status, _ = await self._get(f"{_LIST}/{quote(model)}")
        except (Unreachable, ConnectionLost):
            status = 0
        if status == 503:
            return self._unavailable(
                f"model {clip(model)!r} is still being loaded at {self._where}, or this address leads back to this host"
            )
        text = f"the server at {self._where} has no model {clip(model)!r}; it has {names_of(body)}"
        return LoadFailed(text, model_id=self.model_id)

    def _refused(self, status: int, body: bytes) -> LoadFailed | SourceUnavailable:
        if status == 429 or status >= 500:
            return self._unavailable(f"the server at {self._where} answers {status}")
        error = refusal_of(status, {}, body, model_id=self.model_id, where=self._where)
        return LoadFailed(error.message, model_id=self.model_id, upstream_status=status)

    async def _read_facts(self, listed: Listed) -> UpstreamFacts:
        stated, entry = self._stated, self._entry
        api = listed.api if entry.api == "auto" else APIS[entry.api]
        context = listed.context
        facts = UpstreamFacts(api=api, limit=None if context is None else ModelLimit(context=context, output=context))
        if api is NEURON:
            try:
                status, body = await self._get("/models")
            except (Unreachable, ConnectionLost):
                status, body = 0, b""
            if status == 200:
                facts = facts_of_neuron(body, listed.id, facts)
        if stated.capabilities is not None:
            facts = replace(facts, capabilities=stated.capabilities)
        if stated.context:
            facts = replace(facts, limit=ModelLimit(context=stated.context, output=stated.context))
        return facts

    @property
    def _where(self) -> str:
        return self.client.address.shown

    def _unavailable(self, text: str) -> SourceUnavailable:
        return SourceUnavailable(f"{self.model_id}: {text}", model_id=self.model_id)
