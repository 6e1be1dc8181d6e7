"""Hosts GGUF models in engine processes of llama.cpp: fetch the file, start the engine, wait until it serves."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import anyio.to_thread
from msgspec import structs

from neuron_lib import usable_memory
from neuron_lib.admission.configured import admission_rules
from neuron_lib.config import LlamaCppConfig, ModelEntry
from neuron_lib.discovery.device_memory import DeviceMemory
from neuron_lib.discovery.memory import read_memory_used_mb
from neuron_lib.engine.protocol import Load
from neuron_lib.errors import LoadFailed, SourceUnavailable
from neuron_lib.harness import ProgressReporter
from neuron_lib.llamacpp.engine_client import EngineClient
from neuron_lib.llamacpp.engine_environment import engine_environment
from neuron_lib.llamacpp.engine_process import EngineProcess, open_engine
from neuron_lib.llamacpp.loaded_model import LlamaCppModel
from neuron_lib.llamacpp.memory_fit import does_not_fit
from neuron_lib.llamacpp.rpc_client import ask_rpc_server
from neuron_lib.llamacpp.rpc_servers import AskRpcServer, RpcServers
from neuron_lib.logs import FieldLogger, get_logger
from neuron_lib.placement import (
    HostDevices,
    default_threads,
    memory_bytes,
    needs_more_than_gpus,
    openmp_environment,
    physical_cores,
    visible_devices,
)
from neuron_lib.sizes import MB
from neuron_lib.sockets import SocketReader, read_socket
from neuron_lib.sources.configured import model_store
from neuron_lib.sources.formats import GGUF
from neuron_lib.sources.store import LocalModel
from neuron_lib.supervision.supervisor import EngineStarter, supervise
from neuron_lib.types import (
    ContextParams,
    LoadProgress,
    LoadStage,
    MemoryPlan,
    ModelSpec,
    RpcDevice,
    RpcServer,
    public_id,
)

__all__ = ("LlamaCppHarness", "load_command", "model_store")

logger: FieldLogger = get_logger(__name__)

_PLAN_LIMIT_S: Final = 120.0
"""For a plan, from the start of the engine. It takes a second or two where nothing else runs."""
_NAMES: Final = ("llamacpp", "candle")
"""What entries of models may call this harness."""
_MOST_NEEDS: Final = 64
"""Memory needs that are kept, one for each model and choice of devices."""
_SWITCHED_OFF: Final = frozenset({"0", "false", "no", "off"})


class LlamaCppHarness:
    """The harness `llamacpp`. One engine process per loaded model, started by `open` and ended with its block.

    `models` says where public ids come from; an entry with a `path` may name any file, unless `config` has
    `local_roots`. `environ` has the tokens and caches of hubs, and the switch `NEURON_USE_CHAT_TEMPLATE`; engines get
    only the harmless part of it. `gpu_memory_mb` is the memory of each GPU of this host in MiB, as
    `neuron_lib.discovery` finds them, or a function that is asked at each load.
    """

    def __init__(
        self,
        config: LlamaCppConfig | None = None,
        *,
        models: Sequence[ModelEntry] = (),
        environ: Mapping[str, str] | None = None,
        gpu_memory_mb: Sequence[int] | Callable[[], Sequence[int]] = (),
        max_prompt_tokens: int = 16384,
        ends_with_thread: bool = False,
        read: SocketReader = read_socket,
        read_memory: Callable[[Collection[int]], Awaitable[int | None]] = read_memory_used_mb,
        host_limit_bytes: Callable[[], int | None] = lambda: None,
        ask_rpc: AskRpcServer = ask_rpc_server,
    ) -> None:
        """Engines and fetch processes end when the daemon ends.

        With `ends_with_thread` the kernel kills them, even those that are stopped, when the thread ends that started
        them. That suits only asyncio in the main thread, because trio starts processes from threads that come and go.
        `read` reads the sockets of engines. `read_memory` says how much memory of the given GPUs is taken, in MiB.
        `host_limit_bytes` says how much of the host's memory a model may take even if more is free, None for all.
        `ask_rpc` asks an RPC server for its devices.
        """
        self._config: Final = config or LlamaCppConfig()
        self._environ: Final = os.environ if environ is None else environ
        self._gpu_memory_mb: Final = gpu_memory_mb if callable(gpu_memory_mb) else lambda: gpu_memory_mb
        self._max_prompt_tokens: Final = max_prompt_tokens
        self._ends_with_thread: Final = ends_with_thread
        self._read: Final = read
        self._read_memory: Final = read_memory
        self._host_limit_bytes: Final = host_limit_bytes
        self._rpc: Final = RpcServers(self._config.rpc_servers, ask=ask_rpc)
        self._needs: dict[tuple[ModelSpec, int | None, int | None, tuple[int, ...]], Mapping[str, int]] = {}
        self._given_to_others: Final = frozenset(
            public_id(model.id) for model in models if model.harness not in {None, *_NAMES}
        )
        self._store: Final = model_store(
            self._config, models=models, environ=self._environ, ends_with_thread=ends_with_thread
        )

    @property
    def name(self) -> str:
        return "llamacpp"

    @property
    def formats(self) -> tuple[str, ...]:
        """See `neuron_lib.harness.SelectiveHarness`."""
        return (GGUF,)

    async def takes(self, spec: ModelSpec) -> bool:
        """See `neuron_lib.harness.SelectiveHarness`. A model whose entry names another harness is not taken."""
        if public_id(spec.model_id) in self._given_to_others:
            return False
        return await self._store.takes(spec, formats=self.formats)

    async def known_capabilities(self, model_id: str) -> tuple[str, ...] | None:
        return await self._store.capabilities(model_id)

    def rpc_servers(self) -> tuple[RpcServer, ...]:
        """See `neuron_lib.harness.RpcHarness`."""
        return self._rpc.states(gpu_count=len(self._gpu_memory_mb()))

    @asynccontextmanager
    async def open(self, spec: ModelSpec, *, model_id: str, report: ProgressReporter) -> AsyncIterator[LlamaCppModel]:
        config = self._config
        local = await self._fetch(spec, report)
        report(LoadProgress(stage=LoadStage.LOADING, fraction=0.0))
        host = await self._host(spec)  # asked now: GPUs may have been found during the fetch
        devices = host.indices(spec, gpu_layers=config.gpu_layers)
        gpus = host.gpus(devices)
        load = self._load(local, host.rpc_devices(devices), beside_gpus=bool(gpus))
        start: EngineStarter[EngineClient] = self._engine(
            load, spec, host, model_id=model_id, on_progress=partial(_report_weights, report)
        )
        memory = DeviceMemory(partial(self._read_memory, gpus) if gpus else _no_reading)
        async with (
            memory.returned(),
            self._rpc.held(_servers(load), model_id=model_id),
            supervise(start, model_id=model_id) as supervisor,
            memory.taken(is_unchanged=lambda: supervisor.engine is not None and supervisor.restarts == 0),
        ):
            facts = supervisor.latest.facts
            logger.info(
                "engine ready",
                extra={
                    "model_id": model_id,
                    "description": facts.description,
                    "weights_mb": facts.size_bytes // MB,
                    "n_ctx": facts.n_ctx,
                    "native_context": facts.native_context,
                    "kv_layout": facts.kv_layout,
                    "kv_cells": facts.kv_cells,
                    "memory": facts.memory,
                    "seats": load.seats,
                    "threads": load.context.threads,
                    "chat_template": facts.chat_template,
                },
            )
            if gpus and not facts.supports_gpu:
                logger.warning(
                    "llama.cpp was built without GPU support, so this model computes on the CPU although the host has "
                    "a GPU. `neuron doctor` says how to change that",
                    extra={"model_id": model_id},
                )
            yield LlamaCppModel(
                supervisor,
                harness_name=self.name,
                devices=devices,
                rules=admission_rules(config.admission),
                kv_reply_tokens=config.admission.kv_reply_tokens,
                max_prompt_tokens=self._max_prompt_tokens,
                sampling=config.sampling,
                isolates_principals=config.prompt_cache.isolate_principals,
                vram_used_mb=lambda: memory.taken_mb,
                prefill_target_s=config.context_limit.target_s,
            )

    async def estimate(self, spec: ModelSpec) -> MemoryPlan:
        """See `neuron_lib.harness.Estimator`. Takes an engine process, which ends without loading anything."""
        return await self._plan(spec, await self._host(spec), assumes_empty=False)

    async def memory_need(self, spec: ModelSpec) -> Mapping[str, int]:
        """See `neuron_lib.harness.PlanningHarness`: the plan of a load on a host without other models.

        A plan takes a process and a second or two. So the last needs are kept, as long as the files, the limit and the
        GPUs are the same.
        """
        host = await self._host(spec)
        size_bytes = await self._store.size_bytes(spec)
        key = spec, size_bytes, self._host_limit_bytes(), host.memory_mb
        needs = None if size_bytes is None else self._needs.get(key)
        if needs is None:
            devices = host.indices(spec, gpu_layers=self._config.gpu_layers)
            if self._rpc.user_of([device.server for device in host.rpc_devices(devices)]) is not None:
                return {}  # a server that is in use cannot be asked
            needs = self._needs[key] = (await self._plan(spec, host, assumes_empty=True)).needs
            if len(self._needs) > _MOST_NEEDS:
                del self._needs[next(iter(self._needs))]
        return needs

    async def _plan(self, spec: ModelSpec, host: HostDevices, *, assumes_empty: bool) -> MemoryPlan:
        model_id = public_id(spec.model_id)
        with anyio.move_on_after(_PLAN_LIMIT_S):
            async with anyio.TemporaryDirectory(prefix="neuron-outline-") as folder:
                room_bytes = self._room_bytes(spec, host)
                local = await self._store.outline(spec, into=Path(folder), room_bytes=room_bytes)
                return await self._plan_of(local, spec, host, assumes_empty=assumes_empty)
        raise SourceUnavailable(f"{model_id}: no memory plan after {_PLAN_LIMIT_S:g} s", model_id=model_id)

    async def _plan_of(
        self, local: LocalModel, spec: ModelSpec, host: HostDevices, *, assumes_empty: bool
    ) -> MemoryPlan:
        model_id = public_id(spec.model_id)
        devices = host.indices(spec, gpu_layers=self._config.gpu_layers)
        load = self._load(local, host.rpc_devices(devices), beside_gpus=bool(host.gpus(devices)))
        load = structs.replace(load, plan_only=True, assumes_empty=assumes_empty)
        if (used := self._rpc.user_of(_servers(load))) is not None:
            server, other = used
            text = f"{model_id}: no memory plan, because the RPC server {server} serves {other} and nothing else"
            raise LoadFailed(text, model_id=model_id)
        start = self._engine(load, spec, host, model_id=model_id, on_progress=lambda _: None)
        async with start() as engine:
            return await engine.wait_planned()

    def _load(self, local: LocalModel, rpc_devices: tuple[RpcDevice, ...], *, beside_gpus: bool) -> Load:
        load = load_command(self._config, local, environ=self._environ)
        host_limit_bytes = self._host_limit_bytes()
        return structs.replace(
            load,
            host_limit_bytes=host_limit_bytes,
            rpc_devices=rpc_devices,
            beside_gpus=beside_gpus or not rpc_devices,
        )

    def _engine(
        self, load: Load, spec: ModelSpec, host: HostDevices, *, model_id: str, on_progress: Callable[[float], None]
    ) -> Callable[[], AbstractAsyncContextManager[EngineProcess]]:
        """Starts an engine of a model, whenever it is called. Then raises `SourceUnavailable` while an RPC server of
        the model does not answer.
        """
        devices = host.indices(spec, gpu_layers=self._config.gpu_layers)
        environment = self._environment(
            spec, threads=load.context.threads, gpu_count=len(host.gpu_memory_mb), rpc_count=len(host.rpc)
        )
        start = partial(
            open_engine,
            load,
            model_id=model_id,
            environment=environment,
            on_progress=on_progress,
            stall_limit_s=self._config.stall_timeout_secs,
            ends_with_thread=self._ends_with_thread,
            read=self._read,
            gpus=host.gpus(devices),
            rpc=host.rpc_indices(devices),
        )
        return partial(self._start_beside_servers, start, load, model_id) if load.rpc_devices else start

    @asynccontextmanager
    async def _start_beside_servers(
        self, start: Callable[[], AbstractAsyncContextManager[EngineProcess]], load: Load, model_id: str
    ) -> AsyncIterator[EngineProcess]:
        await self._rpc.require(_servers(load), model_id=model_id)
        async with start() as engine:
            yield engine

    async def _host(self, spec: ModelSpec) -> HostDevices:
        """The devices of this host. RPC servers are asked for theirs if the spec names a device that no GPU is."""
        gpu_memory_mb = self._gpu_memory_mb()
        if self._rpc.addresses and needs_more_than_gpus(spec, gpu_count=len(gpu_memory_mb)):
            await self._rpc.look()
            return self._rpc.devices(self._gpu_memory_mb())
        return HostDevices(gpu_memory_mb=tuple(gpu_memory_mb))

    async def _fetch(self, spec: ModelSpec, report: ProgressReporter) -> LocalModel:
        """Bring the model here. What this host cannot have is refused before anything is fetched."""
        host = await self._host(spec)
        room_bytes, most_bytes = self._room_bytes(spec, host), await self._most_bytes(host)
        admit = None if most_bytes is None else partial(self._require_fit, spec, host)
        return await self._store.fetch(spec, report=report, room_bytes=room_bytes, most_bytes=most_bytes, admit=admit)

    async def _require_fit(self, spec: ModelSpec, host: HostDevices, outline: LocalModel) -> None:
        """Refuse a model that does not fit, before it is fetched. The load decides if there is no plan."""
        model_id = public_id(spec.model_id)
        plan = None
        try:
            with anyio.move_on_after(_PLAN_LIMIT_S):
                plan = await self._plan_of(outline, spec, host, assumes_empty=False)
        except (LoadFailed, SourceUnavailable) as error:
            logger.info("no memory plan before the fetch: %s", error.log_message, extra={"model_id": model_id})
        if plan is not None and not plan.fits:
            raise does_not_fit(plan, model_id=model_id)

    async def _most_bytes(self, host: HostDevices) -> int | None:
        """What is free of the host's memory, and all memory of its devices: more than that no weights can have.

        None if a load that does not fit may go on.
        """
        if self._config.memory_check == "warn":
            return None
        free_bytes = await anyio.to_thread.run_sync(usable_memory.free_bytes)
        host_bytes = usable_memory.usable_bytes() if free_bytes is None else free_bytes
        return host_bytes + (sum(host.memory_mb) << 20)

    def _room_bytes(self, spec: ModelSpec, host: HostDevices) -> int:
        """The memory that a default quant should fit into. Raises `LoadFailed` for devices that there are not, and
        `SourceUnavailable` for devices of an RPC server that never answered.
        """
        used = host.indices(spec, gpu_layers=self._config.gpu_layers)
        return memory_bytes(spec, gpu_memory_mb=host.memory_mb if used else ())

    def _environment(self, spec: ModelSpec, *, threads: int, gpu_count: int, rpc_count: int) -> dict[str, str]:
        # With GPUs the threads are bound to no core. The engines of several GPUs would all be bound to the first ones.
        cores = () if gpu_count else physical_cores()
        return {
            **engine_environment(self._environ),
            **openmp_environment(self._environ, threads=threads, cores=cores),
            **visible_devices(spec, gpu_count=gpu_count, rpc_count=rpc_count),
        }


def _servers(load: Load) -> tuple[str, ...]:
    """The RPC servers that a load uses, each once."""
    return tuple(dict.fromkeys(device.server for device in load.rpc_devices))


def _report_weights(report: ProgressReporter, fraction: float) -> None:
    """Report the fraction of the weights that has been read. What follows the whole is the warm-up."""
    is_read = fraction >= 1.0
    stage = LoadStage.WARMING if is_read else LoadStage.LOADING
    report(LoadProgress(stage=stage, fraction=None if is_read else fraction))


async def _no_reading() -> None:
    """The memory taken on GPUs by a model that is on none."""


def load_command(config: LlamaCppConfig, local: LocalModel, *, environ: Mapping[str, str]) -> Load:
    """The first command of an engine. Nothing in it is left open but an `n_ctx` of 0, which the model decides.

    The `n_ctx` of the model's own entry overrides that of the configuration.
    """
    context = ContextParams(**{name: getattr(config, name) for name in ContextParams.__struct_fields__})
    return Load(
        path=str(local.path),
        seats=config.admission.max_in_flight,
        context=structs.replace(
            context,
            n_ctx=config.n_ctx if local.n_ctx is None else local.n_ctx,
            threads=config.threads or default_threads(),
        ),
        prompt_cache=config.prompt_cache.enabled,
        host_cache_bytes=config.prompt_cache.host_mb << 20,
        speculation=config.speculation,
        target_step_s=config.target_step_ms / 1000,
        report_interval_s=config.report_interval_ms / 1000,
        use_chat_template=environ.get("NEURON_USE_CHAT_TEMPLATE", "").lower() not in _SWITCHED_OFF,
        chat_template=local.chat_template,
        tool_format=local.tool_format or "",
        special_tokens_in_messages=config.special_tokens_in_messages,
        refuses_unfit=config.memory_check == "refuse",
    )
