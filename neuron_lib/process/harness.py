"""Hosts models in programs that serve an OpenAI-style API: fetch the files, start the program, wait until it serves."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
from msgspec import Struct

from neuron_lib.admission.configured import admission_rules
from neuron_lib.child.environment import DEVICE_PREFIXES, chosen_variables
from neuron_lib.config import ModelEntry, StoreSettings
from neuron_lib.discovery.device_memory import DeviceMemory
from neuron_lib.discovery.memory import read_memory_used_mb
from neuron_lib.errors import LoadFailed
from neuron_lib.harness import ProgressReporter
from neuron_lib.logs import FieldLogger, get_logger
from neuron_lib.placement import HostDevices, visible_devices
from neuron_lib.process.entry import ProcessEntry
from neuron_lib.process.gateway import open_gateway
from neuron_lib.process.memory import estimated_needs, require_fit
from neuron_lib.process.program import Program
from neuron_lib.process.server_facts import limit_of
from neuron_lib.process.server_process import Launch, PortTaken, ServerProcess, open_server
from neuron_lib.sources.configured import model_store
from neuron_lib.sources.store import LocalModel, ModelStore
from neuron_lib.supervision.restart_policy import RestartPolicy
from neuron_lib.supervision.supervisor import EngineStarter, supervise
from neuron_lib.types import LoadProgress, LoadStage, ModelSpec, public_id, take_apart
from neuron_lib.upstream.facts import UpstreamFacts
from neuron_lib.upstream.model import UpstreamModel

__all__ = ("ProcessHarness",)

logger: FieldLogger = get_logger(__name__)

_STARTS: Final = 3
"""How often a program is started when another one takes its port."""
_OUTLINE_LIMIT_S: Final = 120.0


class ProcessHarness:
    """A harness of the kind `process`. One program per loaded model, started by `open` and ended with its block.

    `models` are the entries of `[[models]]`. `store` says where their files come from; None if nothing does, for
    programs that fetch by themselves. `gpu_memory_mb` is the memory of each GPU of this host in MiB, or a function that
    is asked at each load. `ends_with_thread`: see `LlamaCppHarness`.
    """

    def __init__(
        self,
        entry: ProcessEntry,
        *,
        models: Sequence[ModelEntry] = (),
        store: StoreSettings | None = None,
        environ: Mapping[str, str] | None = None,
        gpu_memory_mb: Sequence[int] | Callable[[], Sequence[int]] = (),
        max_prompt_tokens: int = 16384,
        ends_with_thread: bool = False,
        read_memory: Callable[[Collection[int]], Awaitable[int | None]] = read_memory_used_mb,
        policy: Callable[[], RestartPolicy] = RestartPolicy,
    ) -> None:
        """`read_memory` says how much memory of the given GPUs is taken, in MiB. `policy` makes the policy of a model's
        restarts.
        """
        self._policy: Final = policy
        self._program: Final = Program.of(entry)
        self._models: Final = {public_id(model.id): model for model in models}
        self._environ: Final = os.environ if environ is None else environ
        self._gpu_memory_mb: Final = gpu_memory_mb if callable(gpu_memory_mb) else lambda: gpu_memory_mb
        self._max_prompt_tokens: Final = max_prompt_tokens
        self._ends_with_thread: Final = ends_with_thread
        self._read_memory: Final = read_memory
        self._store: Final = (
            None
            if store is None
            else model_store(store, models=models, environ=self._environ, ends_with_thread=ends_with_thread)
        )

    @property
    def name(self) -> str:
        return self._program.entry.name

    @property
    def formats(self) -> tuple[str, ...]:
        """See `neuron_lib.harness.SelectiveHarness`."""
        return self._program.formats

    async def takes(self, spec: ModelSpec) -> bool:
        """See `neuron_lib.harness.SelectiveHarness`. A model that the operator has given to this harness is taken, and
        one that is given to another is not.
        """
        model_id = public_id(spec.model_id)
        named = self._entry(spec).harness
        if named is not None or model_id in self._program.entry.models:
            return named in {None, self.name}
        if not self._program.needs_files(model_id) or self._store is None:
            return False  # it would take every model
        return await self._store.takes(spec, formats=self.formats)

    async def known_capabilities(self, model_id: str) -> tuple[str, ...] | None:
        entry = self._models.get(model_id)
        is_own = model_id in self._program.entry.models or (entry is not None and entry.harness == self.name)
        return self._program.facts(model_id).capabilities if is_own else None

    @asynccontextmanager
    async def open(
        self, spec: ModelSpec, *, model_id: str, report: ProgressReporter
    ) -> AsyncIterator[UpstreamModel[ServerProcess]]:
        program, entry = self._program, self._entry(spec)
        program.require_settings(model_id, entry)
        devices = self._gpus(spec)
        local = await self._fetch(spec, report)
        needs = program.memory_bytes(model_id) or estimated_needs(local, devices)
        await require_fit(
            needs, model_id=model_id, gpu_memory_mb=tuple(self._gpu_memory_mb()), read_memory=self._read_memory
        )
        report(LoadProgress(stage=LoadStage.LOADING))
        plan = _Plan(
            program=program,
            model_id=model_id,
            values=program.values(
                model_id=model_id,
                model=entry,
                repository=take_apart(entry.repo or spec.model_id).path,
                path=None if local is None else local.path,
                devices=devices,
            ),
            environment={
                **chosen_variables(
                    self._environ,
                    names=program.entry.pass_env,
                    prefixes=(*DEVICE_PREFIXES, *program.preset.pass_prefixes),
                ),
                **visible_devices(spec, gpu_count=len(self._gpu_memory_mb())),
            },
            facts=self._facts(model_id, entry),
            max_prompt_tokens=self._max_prompt_tokens,
            ends_with_thread=self._ends_with_thread,
        )
        start: EngineStarter[ServerProcess] = partial(_started, plan)
        memory = DeviceMemory(partial(self._read_memory, devices) if devices else _no_reading)
        async with (
            memory.returned(),
            supervise(start, model_id=model_id, policy=self._policy()) as supervisor,
            memory.taken(is_unchanged=lambda: supervisor.engine is not None and supervisor.restarts == 0),
        ):
            server = supervisor.latest
            logger.info(
                "program serves",
                extra={
                    "model_id": model_id,
                    "harness": self.name,
                    "pid": server.pid,
                    "address": server.client.address.shown,
                    "limit": server.facts.limit,
                    "ram_mb": server.usage.rss_bytes >> 20,
                    "seats": program.admission.max_in_flight,
                },
            )
            yield UpstreamModel(
                supervisor,
                harness_name=self.name,
                rules=admission_rules(program.admission),
                devices=devices,
                vram_used_mb=lambda: memory.taken_mb,
                ram_used_mb=lambda: None if supervisor.engine is None else supervisor.engine.usage.rss_bytes >> 20,
            )

    async def memory_need(self, spec: ModelSpec) -> Mapping[str, int]:
        """See `neuron_lib.harness.PlanningHarness`: what the configuration says, or else a guess by the files."""
        model_id = public_id(spec.model_id)
        if (stated := self._program.memory_bytes(model_id)) or not self._program.needs_files(model_id):
            return stated
        store, devices = self._require_store(model_id), self._gpus(spec)
        with anyio.move_on_after(_OUTLINE_LIMIT_S):
            async with anyio.TemporaryDirectory(prefix="neuron-outline-") as folder:
                local = await store.outline(spec, into=Path(folder), formats=self.formats)
                return estimated_needs(local, devices)
        return {}

    async def _fetch(self, spec: ModelSpec, report: ProgressReporter) -> LocalModel | None:
        """Bring the files here, if the command names them."""
        model_id = public_id(spec.model_id)
        if self._program.needs_files(model_id):
            return await self._require_store(model_id).fetch(spec, report=report, formats=self.formats)
        if spec.quant is not None:
            raise LoadFailed(
                f"the harness {self.name} fetches {model_id} by itself, so the quant {spec.quant!r} means nothing to "
                "it: leave it out",
                model_id=model_id,
            )
        return None

    def _require_store(self, model_id: str) -> ModelStore:
        if self._store is None:
            text = f"the harness {self.name} needs the files of {model_id}, and no backend of this host fetches files"
            raise LoadFailed(text, model_id=model_id)
        return self._store

    def _entry(self, spec: ModelSpec) -> ModelEntry:
        model_id = public_id(spec.model_id)
        return self._models.get(model_id) or ModelEntry(id=model_id)

    def _facts(self, model_id: str, entry: ModelEntry) -> UpstreamFacts:
        context = self._program.context(model_id, entry)
        return self._program.facts(model_id, limit=limit_of(context, max_prompt_tokens=self._max_prompt_tokens))

    def _gpus(self, spec: ModelSpec) -> tuple[int, ...]:
        return HostDevices(gpu_memory_mb=tuple(self._gpu_memory_mb())).indices(spec, gpu_layers=1)


class _Plan(Struct, frozen=True, kw_only=True):
    """All that is the same for each start of the program of a model."""

    program: Program
    model_id: str
    values: Mapping[str, str]
    environment: Mapping[str, str]
    facts: UpstreamFacts
    max_prompt_tokens: int
    ends_with_thread: bool


@asynccontextmanager
async def _started(plan: _Plan) -> AsyncIterator[ServerProcess]:
    """A program that serves when the block begins. One that does not get its port is started anew on another one."""
    program, model_id = plan.program, plan.model_id
    for last in (*[False] * (_STARTS - 1), True):
        with ExitStack() as held:
            where = held.enter_context(open_gateway(on_socket=program.listens_on_socket))
            launch = Launch(
                program=program,
                model_id=model_id,
                where=where,
                model_name=program.model_name(model_id, plan.values),
                command=program.command(model_id, plan.values, where),
                environment={**plan.environment, **program.environment(model_id, plan.values, where)},
                stop_command=partial(program.stop_command, plan.values, where, model_id=model_id),
                facts=plan.facts,
                max_prompt_tokens=plan.max_prompt_tokens,
                ends_with_thread=plan.ends_with_thread,
            )
            async with open_server(launch) as server:
                try:
                    await server.wait_ready()
                except PortTaken as error:
                    if last:
                        raise
                    logger.warning("%s, the program is started anew", error.message, extra={"model_id": model_id})
                    continue
                yield server
                return


async def _no_reading() -> None:
    """The memory taken on GPUs by a model that is on none."""
