"""One program that serves a model, from its start to its death. What is asked of it is for `neuron_lib.upstream`."""

import secrets
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

import anyio
import anyio.to_thread
from msgspec import Struct

from neuron_lib.child.parent_death import bound_to_parent, kill_marked
from neuron_lib.child.process import Child, describe_exit, ending, start_child, watch
from neuron_lib.errors import LoadFailed, UnloadFailed, first_leaf
from neuron_lib.logs import FieldLogger, get_logger
from neuron_lib.os_errors import start_error
from neuron_lib.process.entry import ProcessEntry, SleepRules
from neuron_lib.process.family import Usage, listeners_on, look_at_family
from neuron_lib.process.output import LineBudget, output_log
from neuron_lib.process.program import Program, Where
from neuron_lib.process.server_facts import read_facts
from neuron_lib.process.server_watchdog import ServerWatchdog
from neuron_lib.process.sleeping import Sleeper
from neuron_lib.supervision.death import Death
from neuron_lib.upstream.address import UpstreamAddress
from neuron_lib.upstream.client import Unreachable, UpstreamClient, UpstreamLimits
from neuron_lib.upstream.connection import ConnectionLost
from neuron_lib.upstream.engine import UpstreamEngine
from neuron_lib.upstream.facts import UpstreamFacts

__all__ = ("Launch", "PortTaken", "ServerProcess", "open_server")

logger: FieldLogger = get_logger(__name__)

_MARK: Final = "NEURON_PROGRAM"
"""The variable by which the processes of a program are found again, wherever they are."""
_LIMITS: Final = UpstreamLimits(pauses_s=(0.25, 1.0, 3.0), news_s=3.0)
"""A program whose connection breaks has died, as a rule. On a busy host it takes a while until that is known."""
_FIRST_LOOK_S: Final = 0.05
_LONGEST_LOOK_S: Final = 1.0
_PROBE_LIMIT_S: Final = 5.0
_LAST_WORDS_LIMIT_S: Final = 2.0
_KILL_LIMIT_S: Final = 10.0
_GONE_LIMIT_S: Final = 5.0
_GONE_LOOK_S: Final = 0.05
_KEY_REFUSED: Final = frozenset({401, 403})


class PortTaken(LoadFailed):
    """Another program listens on the port that was free a moment before."""


class Launch(Struct, frozen=True, kw_only=True):
    """What is started for a model. `command` and `environment` are whole, and `stop_command` is asked with the process
    id; an empty one leaves it to a signal. `facts` are what the configuration says about the model.
    """

    program: Program
    model_id: str
    where: Where
    model_name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    stop_command: Callable[[int], tuple[str, ...]]
    facts: UpstreamFacts
    max_prompt_tokens: int
    ends_with_thread: bool

    @property
    def entry(self) -> ProcessEntry:
        """What the operator says about the harness."""
        return self.program.entry

    @property
    def address(self) -> UpstreamAddress:
        """Where the program is asked."""
        where = self.where
        return UpstreamAddress(
            url="http://localhost" if where.port is None else f"http://127.0.0.1:{where.port}",
            socket="" if where.socket is None else str(where.socket),
            model=self.model_name,
            token=where.api_key,
        )


@asynccontextmanager
async def open_server(launch: Launch) -> AsyncIterator["ServerProcess"]:
    """A program that is starting when the block begins, and gone with all that it has started when the block has ended.

    Await `ServerProcess.wait_ready` inside. Raises `LoadFailed` for a program that cannot be started,
    `SourceUnavailable` while the host has no means for it, and `UnloadFailed` for one that cannot be killed.
    """
    mark = f"{_MARK}={secrets.token_hex(16)}"
    name, _, value = mark.partition("=")
    entry, model_id = launch.entry, launch.model_id
    try:
        child = await start_child(
            bound_to_parent(launch.command, ends_with_thread=launch.ends_with_thread, mark=mark),
            name=f"the program of {model_id}",
            environment={**launch.environment, name: value},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            directory=None if entry.directory is None else Path(entry.directory),
        )
    except OSError as error:
        raise start_error(error, f"the program of the harness {entry.name}", model_id=model_id) from error
    ask = partial(_ask_to_end, launch=launch)
    async with (
        _nothing_left(child, mark),
        ending(
            child,
            ask=ask,
            ask_limit_s=entry.stop.grace_secs,
            kill_limit_s=_KILL_LIMIT_S,
            on_left=partial(_give_up, model_id),
        ),
    ):
        server = ServerProcess(child, launch)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server._live)
                tasks.start_soon(server._watch_progress)
                tasks.start_soon(server._serve)
                try:
                    yield server
                finally:
                    tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise first_leaf(group) from None
        finally:
            server.bury("the model was unloaded")
            with anyio.CancelScope(shield=True):
                await server.client.aclose()


class ServerProcess(UpstreamEngine):
    """A running program."""

    def __init__(self, child: Child, launch: Launch) -> None:
        super().__init__(model_id=launch.model_id, client=UpstreamClient(launch.address, limits=_LIMITS))
        entry, health = launch.entry, launch.program.health
        self.pid: Final = child.pid
        self._facts: UpstreamFacts = launch.facts
        self.usage: Usage = Usage()
        """What its processes hold, as of the last look."""
        self._child: Final = child
        self._launch: Final = launch
        self._watchdog: Final = ServerWatchdog(
            stall_limit_s=entry.stall_timeout_secs, silence_limit_s=health.limit_secs
        )
        self._budget: Final = LineBudget(anyio.current_time)
        self._log: Final = output_log(
            harness=entry.name,
            model_id=launch.model_id,
            pid=child.pid,
            secret=launch.where.api_key,
            admits=self._admits_line,
        )
        self._settled = anyio.Event()  # it serves, or is dead
        self._is_ready = False
        self._is_port_taken = False
        self._fatal: str | None = None  # why it had to be ended
        self._doubt = anyio.Event()
        self._received = 0
        """The bytes of its answers that were no news, those to probes among them."""
        self._sleeper: Final = None if entry.sleep is None else self._make_sleeper(entry.sleep)

    def __repr__(self) -> str:
        state = "dead" if self.death else "ready" if self._is_ready else "starting"
        return f"<ServerProcess {self.pid} {state} {self.model_id}>"

    # --------------------------------------------------------------------------------------------- what others ask

    @property
    def facts(self) -> UpstreamFacts:
        return self._facts

    async def wake(self) -> None:
        if self._sleeper is not None and (reason := await self._sleeper.wake()) is not None and self.death is None:
            self._end_for(reason)
            await self.wait_dead()

    def doubt(self) -> None:
        """A request could not reach it: ask at once whether it is well."""
        self._doubt.set()

    def tell_of(self, death: Death) -> None:
        self._settled.set()
        super().tell_of(death)

    async def wait_ready(self) -> None:
        """Wait until it serves. Raises `LoadFailed`, and `PortTaken`, after which another port may help."""
        await self._settled.wait()
        if self.death is None or self._is_ready:
            return
        entry = self._launch.entry
        if self._is_port_taken:
            text = f"another program listens on port {self._launch.where.port}"
            raise PortTaken(text, model_id=self.model_id)
        raise LoadFailed(
            f"the program of the harness {entry.name} did not come to serve {self.model_id}: {self.death.reason}",
            model_id=self.model_id,
        )

    # -------------------------------------------------------------------------------------------------- its tasks

    async def _live(self) -> None:
        """Read what the program writes until it has ended; then say how."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._log.read, self._child.stdout)
            await self._child.wait()
            port = self._launch.where.port
            if port is not None and not self._is_ready and self._fatal is None:
                self._is_port_taken = bool(await anyio.to_thread.run_sync(listeners_on, port, (self.pid,)))
            tasks.cancel_scope.deadline = anyio.current_time() + _LAST_WORDS_LIMIT_S
        self.die(self._epitaph())
        await self.client.aclose()

    def _admits_line(self) -> bool:
        """The program has written a line. Returns whether it is logged."""
        self._watchdog.hear_line()
        return self._budget.admits()

    async def _watch_progress(self) -> None:
        self._end_for(await watch(self._watchdog))

    def _end_for(self, reason: str) -> None:
        """End the program, which is of no use any more."""
        if self._fatal is None and self._child.returncode is None:
            self._fatal = reason
            fields = {"model_id": self.model_id, "harness": self._launch.entry.name, "reason": reason}
            logger.error("program is ended", extra=fields)
            self._child.kill()

    async def _serve(self) -> None:
        """Ask the program until it serves, and then again and again whether it is well."""
        limit_s = self._launch.entry.start_timeout_secs or None
        with anyio.move_on_after(limit_s) as start:
            await self._until_ready()
        if start.cancelled_caught:
            self._end_for(f"it did not serve within {limit_s:g} s")
        if self._fatal is not None:
            return
        self._facts = await read_facts(
            self.client, self._launch.facts, max_prompt_tokens=self._launch.max_prompt_tokens
        )
        self._log.mark_loaded()
        self._watchdog.begin_serving()
        self._is_ready = True
        self._settled.set()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._look_after)
            if self._sleeper is not None:
                tasks.start_soon(self._sleeper.watch)

    async def _until_ready(self) -> None:
        probe, pause_s = self._launch.program.ready, _FIRST_LOOK_S
        while self._fatal is None:
            await self._look_at_usage()
            self._watchdog.hear_usage(self.usage)
            status = await self._ask(probe.path)
            if status == probe.status and await self._is_own():
                return
            if status in _KEY_REFUSED and probe.status not in _KEY_REFUSED:
                self._end_for(f"it answers {probe.path} with {status}: it wants another key than {{api_key}}")
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_LOOK_S)

    async def _is_own(self) -> bool:
        """Whether it is the program that answers, and the program answers nobody else. Ends it otherwise.

        Of a program that is ended by a command, the processes are somewhere else, so nobody can say it.
        """
        port = self._launch.where.port
        if port is None or self._launch.entry.stop.command:
            return True
        listeners = await anyio.to_thread.run_sync(listeners_on, port, self.usage.pids)
        own = [listener for listener in listeners if listener.is_own]
        if listeners and not own:
            await self._look_at_usage()  # it may have started the process that listens just now
            again = await anyio.to_thread.run_sync(listeners_on, port, self.usage.pids)
            own = [listener for listener in again if listener.is_own]
            if not own:
                self._is_port_taken = True
                self._end_for(f"another program answers on port {port}")
                return False
        if not all(listener.is_loopback for listener in own):
            self._end_for("other machines could reach it: tell it to listen on {host} or {socket} alone")
            return False
        return True

    async def _look_after(self) -> None:
        health = self._launch.program.health
        while True:
            with anyio.move_on_after(health.interval_secs):
                await self._doubt.wait()
            self._doubt = anyio.Event()
            await self._look_at_usage()
            if self.client.received != self._received:
                self._received = self.client.received
                self._watchdog.note_progress()
            if await self._ask(health.path, limit_s=max(_PROBE_LIMIT_S, health.limit_secs / 4)) == health.status:
                self._watchdog.hear_health(is_busy=bool(self.client.at_work))

    async def _look_at_usage(self) -> None:
        self.usage = await anyio.to_thread.run_sync(look_at_family, self.pid)

    def _make_sleeper(self, rules: SleepRules) -> Sleeper:
        path, wake_path = self._launch.program.sleep_paths
        return Sleeper(
            after_s=rules.after_secs,
            path=path,
            wake_path=wake_path,
            post=partial(self._ask, method="POST", body=b"{}", limit_s=self._launch.entry.stall_timeout_secs),
            is_busy=lambda: bool(self.client.at_work),
            fields={"model_id": self.model_id, "harness": self._launch.entry.name, "pid": self.pid},
        )

    async def _ask(
        self, path: str, *, method: str = "GET", body: bytes = b"", limit_s: float = _PROBE_LIMIT_S
    ) -> int | None:
        """The status of an answer; None if there is none."""
        with suppress(Unreachable, ConnectionLost), anyio.move_on_after(limit_s):
            exchange = await self.client.send(method, path, body, silence_s=limit_s)
            async with exchange:
                try:
                    with suppress(ConnectionLost):
                        await exchange.read_whole()
                finally:
                    self._received += exchange.received
                return exchange.head.status
        return None

    def _epitaph(self) -> str:
        """Why the program has ended. What it wrote once it served may have words of requests: only the log has it."""
        ended = self._fatal or describe_exit(self._child.returncode)
        words = "" if self._is_ready else self._log.tail
        if self._budget.dropped:
            logger.warning(
                "the program wrote more than a log can bear",
                extra={"model_id": self.model_id, "pid": self.pid, "dropped_lines": self._budget.dropped},
            )
        return f"{ended} ({words})" if words else ended


# ------------------------------------------------------------------------------------------------------------ its end


async def _ask_to_end(child: Child, *, launch: Launch) -> None:
    command = launch.stop_command(child.pid)
    if not command:
        child.send_signal(launch.entry.stop.number)
        return
    try:
        stopper = await start_child(command, name="the command that stops a program", environment=launch.environment)
    except OSError as error:
        logger.warning("the command that stops a program cannot be started: %s", error.strerror)
        return
    async with ending(stopper):
        await stopper.wait()


def _give_up(model_id: str, child: Child) -> NoReturn:
    raise UnloadFailed(
        f"the program {child.pid} of {model_id} cannot be killed and keeps its memory; it hangs in a driver",
        model_id=model_id,
        pid=child.pid,
    )


@asynccontextmanager
async def _nothing_left(child: Child, mark: str) -> AsyncIterator[None]:
    """At the end of the block, kill what the program has started and has left its group. Wait until all is gone."""
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(_GONE_LIMIT_S):
            while await anyio.to_thread.run_sync(_kill_rest, child.pid, mark):  # noqa: ASYNC110 - the kernel tells nobody
                await anyio.sleep(_GONE_LOOK_S)


def _kill_rest(pid: int, mark: str) -> bool:
    """Kill what is left of a program. Returns whether anything was."""
    return kill_marked(mark) > 0 or bool(look_at_family(pid).pids)
