"""The daemon with one promise broken on purpose, `sabotaged.py SABOTAGE serve …`: what the checkers must report."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from neuron_lib import Registry
from neuron_lib.wire.openai_chat_reply import ChatStreamEncoder
from neuron_service import cli

LEAKED_BYTES = 100_000
HOARDED_BYTES = 64 << 20

kept: list[object] = []


def command(sabotage: Callable[[], None]) -> tuple[str, ...]:
    """The command of a daemon that is sabotaged in this way."""
    return sys.executable, __file__, sabotage.__name__


def every_unload(happen: Callable[[], object]) -> None:
    unload = Registry.unload

    async def unload_and_more(self: Registry, model_id: str) -> None:
        await unload(self, model_id)
        happen()

    Registry.unload = unload_and_more  # type: ignore[method-assign]  # replaced on purpose


def every_chat(happen: Callable[[Any], object]) -> None:
    run = Registry.run

    def run_and_more(self: Registry, task: Any, **more: Any) -> Any:
        happen(task)
        return run(self, task, **more)

    Registry.run = run_and_more  # type: ignore[method-assign]  # replaced on purpose


def leak_memory() -> None:
    every_unload(lambda: kept.append(os.urandom(LEAKED_BYTES)))


def leak_descriptors() -> None:
    every_unload(lambda: os.open(os.devnull, os.O_RDONLY))


def hoard_memory() -> None:
    every_chat(lambda _request: kept.append(os.urandom(HOARDED_BYTES)))


def spoil_the_cache() -> None:
    """Each blob gets a byte too many."""
    folder = Path(sys.argv[sys.argv.index("--config") + 1]).parent

    def spoil(_request: object) -> None:
        for blob in folder.glob("*/models--*/blobs/*"):
            with blob.open("ab") as file:
                file.write(b"x")

    every_chat(spoil)


def leave_zombies() -> None:
    every_chat(lambda _request: kept.append(subprocess.Popen(["true"])))  # noqa: S607 - whatever ends at once


def tell_the_log() -> None:
    every_chat(lambda request: logging.getLogger("sabotage").info("%s", list(request.messages)))


def block_the_loop() -> None:
    list_models = Registry.list_models

    def list_slowly(self: Registry) -> Any:
        time.sleep(1)
        return list_models(self)

    Registry.list_models = list_slowly  # type: ignore[method-assign]  # replaced on purpose


def end_silently() -> None:
    ChatStreamEncoder.error = lambda *_: b""  # type: ignore[method-assign]  # replaced on purpose


def keep_seats() -> None:
    loads = Registry.loads
    Registry.loads = lambda self: tuple(replace(load, in_flight=1) for load in loads(self))  # type: ignore[method-assign]  # replaced on purpose


def list_the_dead() -> None:
    list_models = Registry.list_models

    def list_all_ever(self: Registry) -> Any:
        kept.extend(model for model in list_models(self) if model.id not in {old.id for old in kept})  # type: ignore[attr-defined]  # only models are kept
        return tuple(kept)

    Registry.list_models = list_all_ever  # type: ignore[method-assign]  # replaced on purpose


def fail_on_nonsense() -> None:
    async def unload(self: Registry, model_id: str) -> None:
        raise RuntimeError

    Registry.unload = unload  # type: ignore[method-assign]  # replaced on purpose


def load_twice() -> None:
    """A load looks for no other of its id. In the end there is one of them, so that the daemon can end."""
    load = Registry.load

    async def load_blindly(self: Registry, spec: Any, **more: Any) -> Any:
        first = self._models.pop(spec.model_id, None)
        info = await load(self, spec, **more)
        if first is not None:
            await self.unload(spec.model_id)
            self._models[spec.model_id] = first
        return info

    Registry.load = load_blindly  # type: ignore[method-assign]  # replaced on purpose


def end_badly() -> None:
    leave = os._exit
    os._exit = lambda _status: leave(3)  # type: ignore[assignment]  # replaced on purpose


if __name__ == "__main__":
    sabotage = sys.argv.pop(1)
    globals()[sabotage]()
    cli.main()
