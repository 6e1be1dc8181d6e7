"""A model and whatever engine serves it, as the registry sees it: facts, limits, admission."""

from collections.abc import Callable

import anyio
from msgspec.structs import asdict, replace

from neuron_lib.admission import AdmissionController, AdmissionRules, Capacity
from neuron_lib.config import SamplingConfig
from neuron_lib.errors import RequestRejected
from neuron_lib.llamacpp.engine_client import EngineClient
from neuron_lib.llamacpp.limits import capacity_of, readable_tokens, request_limit, servable
from neuron_lib.llamacpp.reply import LlamaCppReply
from neuron_lib.supervision.death import Death
from neuron_lib.supervision.quarantine import Quarantine
from neuron_lib.supervision.supervisor import EngineSupervisor
from neuron_lib.types import EngineMeasures, ModelInfo, ModelLimit, ModelLoad, ModelStatus, Principal, Task

__all__ = ("LlamaCppModel",)


class LlamaCppModel:
    """See `neuron_lib.harness.LoadedModel`."""

    def __init__(
        self,
        supervisor: EngineSupervisor[EngineClient],
        *,
        harness_name: str,
        devices: tuple[int, ...],
        rules: AdmissionRules,
        max_prompt_tokens: int,
        sampling: SamplingConfig,
        isolates_principals: bool = False,
        kv_reply_tokens: int = 0,
        vram_used_mb: Callable[[], int | None] = lambda: None,
        prefill_target_s: float = 0.0,
    ) -> None:
        """With `isolates_principals` the prompts of one account are never reused for another. The cells for
        `kv_reply_tokens` tokens of each reply are reserved before the reply begins. `vram_used_mb` says how much memory
        of GPUs the model takes, in MiB. Prompts are no longer than what is read within `prefill_target_s`; 0 sets no
        such limit.
        """
        self._vram_used_mb = vram_used_mb
        self._prefill_target_s = prefill_target_s
        self._supervisor = supervisor
        self._admission = AdmissionController(rules, capacity=self._capacity)
        self._max_prompt_tokens = max_prompt_tokens
        self._kv_reply_tokens = kv_reply_tokens
        self._sampling = sampling
        self._isolates_principals = isolates_principals
        self._harness_name = harness_name
        self._devices = devices
        self._quarantine = Quarantine()
        supervisor.on_death = self._take_in

    def __repr__(self) -> str:
        return f"<LlamaCppModel {self._supervisor!r} {self._admission!r}>"

    def info(self) -> ModelInfo:
        facts = self._supervisor.latest.facts
        engine = self._supervisor.engine
        return ModelInfo(
            id=self._supervisor.model_id,
            harness=self._harness_name,
            status=ModelStatus.RECOVERING if engine is None else ModelStatus.LOADED,
            devices=self._devices,
            vram_used_mb=self._vram_used_mb(),
            ram_used_mb=None if engine is None or engine.last_beat is None else engine.last_beat.rss_bytes >> 20,
            capabilities=facts.capabilities,
            limit=self._limit,
            tool_call=bool(facts.tool_format),
            tool_format=facts.tool_format or None,
            reasoning=facts.reasoning is not None,
            # The status says that a model recovers. Were it not servable, a gateway would load it elsewhere.
            servable=None if engine is None else servable(self._capacity(), standstill=engine.standstill),
            chat_template=None if facts.chat_template == "model" else facts.chat_template,
        )

    def load(self) -> ModelLoad:
        engine = self._supervisor.engine
        beat = None if engine is None else engine.last_beat
        return ModelLoad(
            id=self._supervisor.model_id,
            **asdict(self._admission.snapshot()),
            engine_rss_mb=0 if beat is None else beat.rss_bytes >> 20,
            engine_restarts=self._supervisor.restarts,
            last_engine_death=self._supervisor.last_death or "",
        )

    @property
    def _limit(self) -> ModelLimit | None:
        return request_limit(
            self._supervisor.latest.facts,
            max_prompt_tokens=self._max_prompt_tokens,
            max_tokens=self._sampling.max_tokens,
            readable=self._readable_tokens,
        )

    @property
    def _readable_tokens(self) -> int | None:
        measures = self.measures()
        speed = 0.0 if measures is None else measures.prefill_tok_s
        return readable_tokens(prefill_tok_s=speed, target_s=self._prefill_target_s)

    def _capacity(self) -> Capacity:
        return capacity_of(self._supervisor.latest.facts, limit=self._limit, seats=self._admission.rules.max_in_flight)

    def measures(self) -> EngineMeasures | None:
        engine = self._supervisor.engine
        beat = None if engine is None else engine.last_beat
        if beat is None or beat.measures is None:
            return None
        return replace(beat.measures, kv_cells=self._supervisor.latest.facts.kv_cells)

    def _take_in(self, death: Death) -> None:
        self._quarantine.take_in(death, now_s=anyio.current_time())

    def run(self, task: Task) -> LlamaCppReply:
        return LlamaCppReply(
            task,
            supervisor=self._supervisor,
            admission=self._admission,
            quarantine=self._quarantine,
            max_prompt_tokens=self._max_prompt_tokens,
            readable_tokens=self._readable_tokens,
            kv_reply_tokens=self._kv_reply_tokens,
            sampling=self._sampling,
            cache_key=self._cache_key(task.principal),
        )

    def _cache_key(self, principal: Principal | None) -> str:
        """Requests of one account share prompts, whichever of its keys they use, and so do all anonymous requests."""
        return principal.account_id if self._isolates_principals and principal is not None else ""

    def close_admission(self, refusal: Callable[[], RequestRejected]) -> None:
        self._admission.close(refusal)

    async def wait_lost(self) -> str:
        return await self._supervisor.wait_lost()
