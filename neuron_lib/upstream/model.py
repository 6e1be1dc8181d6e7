"""A model that another server has, as the registry sees it: facts, admission, replies."""

from collections.abc import Callable
from typing import Generic, TypeVar

import anyio
from msgspec.structs import asdict

from neuron_lib.admission import AdmissionController, AdmissionRules
from neuron_lib.errors import RequestRejected
from neuron_lib.supervision.death import Death
from neuron_lib.supervision.quarantine import Quarantine
from neuron_lib.supervision.supervisor import EngineSupervisor
from neuron_lib.types import ModelInfo, ModelLoad, ModelStatus, Task
from neuron_lib.upstream.engine import UpstreamEngine
from neuron_lib.upstream.reply import UpstreamReply
from neuron_lib.upstream.seats import Seats

__all__ = ("UpstreamModel",)


EngineT = TypeVar("EngineT", bound=UpstreamEngine)


class UpstreamModel(Generic[EngineT]):
    """See `neuron_lib.harness.LoadedModel`. Lives inside the block of its supervisor."""

    def __init__(
        self,
        supervisor: EngineSupervisor[EngineT],
        *,
        harness_name: str,
        rules: AdmissionRules,
        devices: tuple[int, ...] = (),
        vram_used_mb: Callable[[], int | None] = lambda: None,
        ram_used_mb: Callable[[], int | None] = lambda: None,
    ) -> None:
        """`rules` say how many requests may run and wait here, whatever the server itself admits.

        `devices` are this host's GPUs that the server uses. `vram_used_mb` and `ram_used_mb` say how much memory of
        this host it takes, in MiB; None where that is not known, or where it is on another host.
        """
        self._supervisor = supervisor
        self._harness_name = harness_name
        self._admission = AdmissionController(rules)
        self._seats = Seats(rules.max_in_flight, max_wait_s=rules.max_wait_s)
        self._quarantine = Quarantine()
        self._devices = devices
        self._vram_used_mb = vram_used_mb
        self._ram_used_mb = ram_used_mb
        supervisor.on_death = self._take_in

    def __repr__(self) -> str:
        return f"<UpstreamModel {self._supervisor!r} {self._admission!r}>"

    def info(self) -> ModelInfo:
        facts = self._supervisor.latest.facts
        return ModelInfo(
            id=self._supervisor.model_id,
            harness=self._harness_name,
            status=ModelStatus.RECOVERING if self._supervisor.engine is None else ModelStatus.LOADED,
            devices=self._devices,
            vram_used_mb=self._vram_used_mb(),
            ram_used_mb=self._ram_used_mb(),
            capabilities=facts.capabilities,
            limit=facts.limit,
            tool_call=facts.tool_call,
            tool_format=facts.tool_format,
            reasoning=facts.reasoning,
        )

    def load(self) -> ModelLoad:
        return ModelLoad(
            id=self._supervisor.model_id,
            **asdict(self._admission.snapshot()),
            engine_rss_mb=self._ram_used_mb() or 0,
            engine_restarts=self._supervisor.restarts,
            last_engine_death=self._supervisor.last_death or "",
        )

    def run(self, task: Task) -> UpstreamReply[EngineT]:
        return UpstreamReply(
            task,
            supervisor=self._supervisor,
            admission=self._admission,
            seats=self._seats,
            quarantine=self._quarantine,
        )

    def _take_in(self, death: Death) -> None:
        self._quarantine.take_in(death, now_s=anyio.current_time())

    def close_admission(self, refusal: Callable[[], RequestRejected]) -> None:
        self._admission.close(refusal)

    async def wait_lost(self) -> str:
        return await self._supervisor.wait_lost()
