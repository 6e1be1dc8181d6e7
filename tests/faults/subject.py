"""What faults are done to: a real daemon, its clients and its gateway. Knows how to bring it into any phase."""

import re
import time
from collections.abc import Collection
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.faults.exchanges import Exchange, Outcome
from tests.faults.footprint import Footprint, anonymous_bytes, footprint
from tests.faults.gateway import Gateway
from tests.patience import PATIENCE_S
from tests.system.daemon import Daemon, chat, eventually

__all__ = ("KEY", "REAL", "REAL_TOO", "SECRET", "TINY", "TINY_TOO", "Rig")

REAL = "test/real"
"""The small real model."""
TINY = "test/tiny"
"""A model of random weights that loads and runs in no time."""
REAL_TOO, TINY_TOO = "test/real-too", "test/tiny-too"
"""The same models from elsewhere."""
SECRET = "xyzzy-4711"  # noqa: S105 - not a password, but what no log may hold
"""Part of every prompt."""
KEY = "sk-plugh-0815"
"""Part of every request's head."""
LONG_PROMPT_WORDS = 500
LOOKS = 10


@dataclass(slots=True)
class Rig:
    """`exchanges` are all requests so far, `baseline` and `memory` what the daemon held before the first fault.

    What was promised may take `patience_s` on an idle machine, and longer on a busy one. The promises speak of two
    seconds for most of it, on an idle machine; a busy one must not fail the tests.
    """

    daemon: Daemon
    gateway: Gateway
    exchanges: list[Exchange] = field(default_factory=list)
    baseline: Footprint | None = None
    memory: int = 0
    patience_s: float = 30

    @property
    def pid(self) -> int:
        return self.daemon.process.pid

    def ask(
        self,
        model: str = REAL,
        *,
        stream: bool = True,
        max_tokens: int = 8,
        content: str = "Tell me a story.",
        **more: Any,
    ) -> Exchange:
        """Send a chat and do not wait."""
        # A number in front, so that no prompt is in the prompt cache.
        content = f"{len(self.exchanges)} {SECRET} {content}"
        body = chat(model, stream=stream, max_tokens=max_tokens, content=content) | more
        exchange = Exchange(self.daemon.port, body, headers={"authorization": f"Bearer {KEY}"})
        self.exchanges.append(exchange)
        return exchange

    def answer(self, model: str = REAL, **more: Any) -> Outcome:
        """Send a chat and wait for its end."""
        return self.ask(model, **more).outcome()

    def decoding(self, model: str = REAL, *, max_tokens: int = 900) -> Exchange:
        """A stream that has begun and is far from its end."""
        exchange = self.ask(model, max_tokens=max_tokens, ignore_eos=True)
        assert exchange.has_text.wait(PATIENCE_S), f"no text: {exchange!r}"
        return exchange

    def prefilling(self, model: str = REAL, *, stream: bool = True) -> Exchange:
        """A request whose prompt is being read, which takes a second or more.

        On a busy machine the answer to a look may take longer than that, so another prompt is asked for then.
        """
        for _ in range(LOOKS):
            before = self.load_of(model)["in_flight"]
            exchange = self.ask(model, content="word " * LONG_PROMPT_WORDS, max_tokens=2, stream=stream)
            eventually(lambda: self.load_of(model)["in_flight"] > before or exchange.is_over)  # noqa: B023 - called here
            if not exchange.has_text.is_set() and not exchange.is_over:
                return exchange
            exchange.outcome()
        raise AssertionError(f"{LOOKS} prompts were read before anybody could look")

    def models(self) -> dict[str, str]:
        """The status of each listed model."""
        return {model["id"]: model["status"] for model in self.daemon.client.get("/models").json()}

    def load_of(self, model: str) -> dict[str, Any]:
        """How busy the model is."""
        return next(load for load in self.daemon.health()["models"] if load["id"] == model)

    def load(self, model: str) -> httpx.Response:
        """Ask for a load and wait for its end."""
        return self.daemon.client.post(
            "/models/load", json={"model_id": model, "harness": "llamacpp"}, timeout=PATIENCE_S
        )

    def load_under_way(self, model: str, threads: Executor) -> tuple[Future[httpx.Response], int]:
        """A load whose engine has begun to read its file: how it ends, and the process id of the engine."""
        others = self.daemon.engine_pids()
        load = threads.submit(self.load, model)
        engine = self.wait_reading(beside=others)
        assert not load.done(), "the model was loaded before anybody could look"
        return load, engine

    def wait_reading(self, *, beside: Collection[int]) -> int:
        """Until an engine that is not among these has its file mapped; its process id.

        Until then it is an interpreter that begins. The tiny model is loaded right afterwards, the real one takes its
        time.
        """
        (engine,) = eventually(
            lambda: [pid for pid in self.daemon.engine_pids() if pid not in beside and maps_a_model(pid)]
        )
        return engine

    def unload(self, model: str) -> httpx.Response:
        return self.daemon.client.post("/models/unload", json={"model_id": model}, timeout=PATIENCE_S)

    def load_anew(self, model: str) -> None:
        """The model in an engine that has not died yet."""
        if model in self.models():
            assert self.unload(model).is_success
        assert self.load(model).is_success

    def engine_of(self, model: str) -> int:
        """The process id of the latest engine of the model that has said something, as the log tells it."""
        return int(re.findall(rf"model_id={model} pid=(\d+)", self.daemon.log)[-1])

    def has_recovered(self, model: str, *, dead: int) -> bool:
        """Whether an engine after the `dead` one serves the model."""
        return self.models().get(model) == "loaded" and self.engine_of(model) != dead

    def wait_recovered(self, model: str, *, dead: int) -> None:
        """Until `has_recovered`."""
        eventually(lambda: self.has_recovered(model, dead=dead))

    def settle(self) -> None:
        """Take what the daemon holds now, with nobody asking anything, as what it may hold."""
        looks = []
        for _ in range(LOOKS):  # a connection that is just being closed is there in some of them
            looks.append(footprint(self.pid))
            time.sleep(0.02)
        self.baseline = min(looks, key=lambda look: look.fds)
        self.memory = anonymous_bytes(self.pid)


def maps_a_model(pid: int) -> bool:
    """False of a process that is gone, such as a tool that the daemon has asked."""
    try:
        return ".gguf" in Path(f"/proc/{pid}/maps").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
