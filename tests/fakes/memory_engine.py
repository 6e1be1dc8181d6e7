"""A fake engine that runs in a task of the test, its frames in memory: no process, no socket, no thread."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from neuron_lib.engine.protocol import Beat, Command, Load, Report, Submit, command_decoder, encode_frame
from neuron_lib.errors import first_leaf
from neuron_lib.llamacpp.engine_client import EngineClient
from neuron_lib.llamacpp.engine_watchdog import EngineWatchdog
from tests.fakes.fake_engine import FakeEngine

__all__ = ("MemoryEngine", "open_memory_engine")


class _End(Exception):
    """The engine has ended, as its words say."""


class _Hang(Exception):
    """The engine obeys no more."""


class _Surroundings:
    def __init__(self, reports: MemoryObjectSendStream[bytes]) -> None:
        self._reports = reports

    def send(self, report: Report) -> None:
        self._reports.send_nowait(encode_frame(report))

    def send_bytes(self, data: bytes) -> None:
        self._reports.send_nowait(data)

    def beat(self, engine: FakeEngine, *, forever: bool = False) -> None:
        self.send(Beat(step=engine.steps, in_flight=int(engine.mode != "beating"), rss_bytes=1))
        if forever:
            raise _Hang

    def hang(self) -> NoReturn:
        raise _Hang

    def hang_up(self) -> NoReturn:
        raise _End("killed by SIGKILL")

    def die_of(self, number: signal.Signals) -> NoReturn:
        raise _End(f"killed by {number.name}")

    def exit(self, status: int) -> NoReturn:
        raise _End(f"exit status {status}")


class MemoryEngine(EngineClient):
    """A client of a fake engine. It dies of what the fake does, or of `kill`."""

    def __init__(self, *, model_id: str) -> None:
        limits = EngineWatchdog(stall_limit_s=300, silence_limit_s=300)
        super().__init__(model_id=model_id, on_progress=lambda _fraction: None, watchdog=limits)
        self.killed = anyio.Event()
        self.told: list[Command] = []
        """The commands that the fake was given, in that order."""

    @property
    def submitted(self) -> list[int]:
        """The numbers of the requests that the fake was told of, in that order."""
        return [command.request for command in self.told if isinstance(command, Submit)]

    def kill(self) -> None:
        """End the engine, whatever it is doing."""
        self.killed.set()

    async def live(
        self, commands: MemoryObjectReceiveStream[bytes], reports: MemoryObjectSendStream[bytes], mode: str
    ) -> None:
        """The life of the fake; what it has said is read before it is known to be dead."""
        end = "killed by SIGKILL"
        fake, decoder = FakeEngine(mode, _Surroundings(reports)), command_decoder()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._await_kill, tasks.cancel_scope)
            try:
                async for data in commands:
                    for command in decoder.feed(data):
                        self.told.append(command)
                        fake.obey(command)
            except _End as ending:
                end = str(ending)
                tasks.cancel_scope.cancel()
            except _Hang:
                await anyio.sleep_forever()
        self.ending = end
        reports.close()

    async def _await_kill(self, scope: anyio.CancelScope) -> None:
        await self.killed.wait()
        scope.cancel()

    async def read_until_dead(self, reports: MemoryObjectReceiveStream[bytes]) -> None:
        await self.read_reports(reports)
        self.die(self._fatal or self.ending)


@asynccontextmanager
async def open_memory_engine(load: Load, *, mode: str, model_id: str = "org/fake") -> AsyncIterator[MemoryEngine]:
    """As `open_engine`: an engine that is loading when the block begins and is gone when the block has ended."""
    send_commands, commands = anyio.create_memory_object_stream[bytes](1)
    reports, read_reports = anyio.create_memory_object_stream[bytes](1 << 20)
    engine = MemoryEngine(model_id=model_id)
    with send_commands, commands, reports, read_reports:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(engine.write_commands, send_commands)
                tasks.start_soon(engine.read_until_dead, read_reports)
                tasks.start_soon(engine.live, commands, reports, mode)
                engine.post(load)
                try:
                    yield engine
                finally:
                    engine.bury("the model was unloaded")
                    tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise first_leaf(group) from None
