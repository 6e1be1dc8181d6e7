"""Fakes that behave: models whose loads, replies and deaths follow a script. For our tests and for yours.

`ScriptedHarness` stands in for a real backend under a `Registry`; `ScriptedRunner` stands in for libllama under the
engine's scheduler. Neither sleeps: scripts wait for events that the test sets.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from types import TracebackType
from typing import Self

import anyio
from anyio.lowlevel import checkpoint
from msgspec.structs import asdict, replace

from neuron_lib.admission import AdmissionController, AdmissionRules
from neuron_lib.engine import sequence as engine
from neuron_lib.engine.step import Outcome, StepPlan, StepResult
from neuron_lib.errors import EngineDead, NeuronError, Overloaded, OverloadReason, PromptTooLong, RequestRejected
from neuron_lib.harness import ProgressReporter
from neuron_lib.modality import require_able
from neuron_lib.types import (
    Chat,
    Complete,
    Detokenize,
    Detokenized,
    Embed,
    Embedding,
    EventBeforeEnd,
    Finished,
    FinishReason,
    GenerationEvent,
    Likely,
    LoadProgress,
    LoadStage,
    ModelInfo,
    ModelLimit,
    ModelLoad,
    ModelSpec,
    ModelStatus,
    ReasoningDelta,
    Relevance,
    Rerank,
    Started,
    Task,
    TextDelta,
    Tokenize,
    Tokenized,
    TokenLogprob,
    ToolCall,
    Usage,
    public_id,
)
from neuron_lib.upstream.seats import Seats
from neuron_lib.vectors import check_dimensions, shortened

__all__ = ("ScriptedHarness", "ScriptedModel", "ScriptedRunner")


@dataclass(slots=True, kw_only=True)
class ScriptedModel:
    """The script of one model id.

    Loading reports `stages` one by one, then waits for `may_load`, then raises `load_error` if there is one. Leaving
    ends the replies, waits for `may_unload`, then raises `unload_error`. Entering a reply waits for `may_prepare`,
    refuses a prompt that does not fit into `n_ctx`, then waits for its seats and its turn. The reply to a
    `Chat` or a `Complete` is `reply`, one delta per item, and waits for `may_speak` before each; an item that is an
    exception is raised in its place, and a `Finished` as the last item is the end of the reply. A request for several
    choices gets the same as each of them, item by item. A request for log-probabilities gets each text as a token that
    was certain. The reply to an `Embed` is `vector` for each input; `capabilities` must have "embeddings". The reply to
    a `Rerank` gives the documents the `scores` in turn; `capabilities` must have "rerank". A `Tokenize` or a
    `Detokenize` takes no seat. Each byte of a text is a token; a chat is read as its messages, each as `ROLE: CONTENT`
    in a line of its own. Replies say of themselves whether they were `retried`. `needs` are the bytes that a
    load will take on each device. Setting `dies` kills the resident model
    with `death`; give the harness a new script before it is loaded again.
    """

    stages: Sequence[LoadProgress] = (LoadProgress(stage=LoadStage.LOADING, fraction=0.5),)
    may_load: anyio.Event | None = None
    load_error: Exception | None = None
    may_unload: anyio.Event | None = None
    unload_error: Exception | None = None
    may_prepare: anyio.Event | None = None
    reply: Sequence[str | GenerationEvent | NeuronError] = ("Hello", ", ", "world", "!")
    may_speak: anyio.Event | None = None
    vector: tuple[float, ...] = (1.0, 0.0)
    scores: tuple[float, ...] = (0.5,)
    prompt_tokens: int = 7
    n_ctx: int = 1024
    capabilities: tuple[str, ...] = ("text",)
    needs: Mapping[str, int] = field(default_factory=dict)
    max_in_flight: int = 8
    max_queue_depth: int = 32
    max_wait_s: float = 30.0
    max_per_principal: int | None = None
    anon_max_in_flight: int | None = None
    anon_max_pending: int | None = None
    retried: bool = False
    dies: anyio.Event = field(default_factory=anyio.Event)
    death: str = "killed by the script"

    @property
    def rules(self) -> AdmissionRules:
        """How many requests may run and wait, and whose."""
        return AdmissionRules(
            max_in_flight=self.max_in_flight,
            max_queue_depth=self.max_queue_depth,
            max_wait_s=self.max_wait_s,
            max_per_principal=self.max_per_principal,
            anon_max_in_flight=self.anon_max_in_flight,
            anon_max_pending=self.anon_max_pending,
        )


class ScriptedHarness:
    """A harness whose models follow `scripts`, by public id; ids without a script load at once and say hello.

    `requests` has every task that was entered. `log` records what happened, in order, as `"open ID"`, `"loaded ID"`,
    `"close ID"`, `"chat ID"`, `"end ID"`, `"crash ID"`, `"recover ID"`.
    """

    def __init__(self, scripts: Mapping[str, ScriptedModel] | None = None, *, name: str = "scripted") -> None:
        self._name = name
        self.scripts: dict[str, ScriptedModel] = dict(scripts or {})
        self.log: list[str] = []
        self.requests: list[Task] = []
        self._resident: dict[str, _LoadedScript] = {}

    def crash(self, model_id: str) -> None:
        """The engine of a resident model dies and the harness starts another one, which takes until `recover`.

        Meanwhile the model shows `recovering`, its replies end with `EngineDead`, and new requests are refused with
        `Overloaded`. Raises KeyError if the model is not resident.
        """
        self._resident[model_id].crash()
        self.log.append(f"crash {model_id}")

    def recover(self, model_id: str) -> None:
        """A model that crashed serves again. Raises KeyError if it is not resident any more."""
        self._resident[model_id].is_recovering = False
        self.log.append(f"recover {model_id}")

    @property
    def name(self) -> str:
        return self._name

    async def known_capabilities(self, model_id: str) -> tuple[str, ...] | None:
        script = self.scripts.get(public_id(model_id))
        return None if script is None else script.capabilities

    async def memory_need(self, spec: ModelSpec) -> Mapping[str, int]:
        """What the script says; see `PlanningHarness`."""
        script = self.scripts.get(public_id(spec.model_id))
        return {} if script is None else script.needs

    @asynccontextmanager
    async def open(self, spec: ModelSpec, *, model_id: str, report: ProgressReporter) -> AsyncIterator["_LoadedScript"]:
        script = self.scripts.setdefault(model_id, ScriptedModel())
        self.log.append(f"open {model_id}")
        try:
            for progress in script.stages:
                report(progress)
                await checkpoint()
            if script.may_load is not None:
                await script.may_load.wait()
            if script.load_error is not None:
                raise script.load_error
            self.log.append(f"loaded {model_id}")
            model = self._resident[model_id] = _LoadedScript(self, spec, model_id, script)
            try:
                yield model
            finally:
                del self._resident[model_id]
                model.end()
            if script.may_unload is not None:
                await script.may_unload.wait()
            if script.unload_error is not None:
                raise script.unload_error
        finally:
            self.log.append(f"close {model_id}")


class _LoadedScript:
    def __init__(self, harness: ScriptedHarness, spec: ModelSpec, model_id: str, script: ScriptedModel) -> None:
        self.harness = harness
        self.spec = spec
        self.model_id = model_id
        self.script = script
        self.admission = AdmissionController(script.rules)
        self.is_recovering = False
        self.engine_number = 0
        self.seats = Seats(script.max_in_flight, max_wait_s=script.max_wait_s)
        self._waits: set[anyio.CancelScope] = set()
        self._has_ended = False

    def info(self) -> ModelInfo:
        return ModelInfo(
            id=self.model_id,
            harness=self.harness.name,
            status=ModelStatus.RECOVERING if self.is_recovering else ModelStatus.LOADED,
            devices=self.spec.devices or (0,),
            capabilities=self.script.capabilities,
            limit=ModelLimit(context=self.script.n_ctx, output=self.script.n_ctx),
        )

    def load(self) -> ModelLoad:
        death = self.script.death if self.engine_number else ""
        return ModelLoad(
            id=self.model_id,
            **asdict(self.admission.snapshot()),
            engine_restarts=self.engine_number,
            last_engine_death=death,
        )

    def run(self, task: Task) -> "_ScriptedReply":
        return _ScriptedReply(self, task)

    def close_admission(self, refusal: Callable[[], RequestRejected]) -> None:
        self.admission.close(refusal)

    async def wait_lost(self) -> str:
        await self.script.dies.wait()
        return self.script.death

    async def wait_for(self, event: anyio.Event | None, *, engine_number: int) -> None:
        """Wait for an event of the script. Raises `EngineDead` once that engine is gone, as every backend must."""
        if event is not None and not self._has_ended and engine_number == self.engine_number:
            with anyio.CancelScope() as scope:
                self._waits.add(scope)
                try:
                    await event.wait()
                finally:
                    self._waits.remove(scope)
        await checkpoint()
        if self._has_ended:
            reason = self.script.death if self.script.dies.is_set() else "the model was unloaded"
            raise EngineDead(self.model_id, reason)
        if engine_number != self.engine_number:
            raise EngineDead(self.model_id, self.script.death)

    def refuse_if_recovering(self) -> None:
        if self.is_recovering:
            text = f"the engine of model {self.model_id!r} died and is being replaced"
            raise Overloaded(text, reason=OverloadReason.ENGINE_LOST, retry_after_s=2, model_id=self.model_id)

    def crash(self) -> None:
        """An engine is gone, and with it every reply; another one is on its way."""
        self.is_recovering = True
        self.engine_number += 1
        self._wake()

    def end(self) -> None:
        """The model is gone, and with it every reply."""
        self._has_ended = True
        self._wake()

    def _wake(self) -> None:
        for scope in self._waits:
            scope.cancel()


class _ScriptedReply:
    def __init__(self, model: _LoadedScript, task: Task) -> None:
        self._model = model
        self._task = task
        self._choices = task.choices if isinstance(task, Chat | Complete) else 1
        if isinstance(task, Complete):
            self._choices *= len(task.prompts)
        takes_turns = isinstance(task, Complete) and task.more_prompts
        self._seats = min(self._choices, model.script.max_in_flight) if takes_turns else self._choices
        self._held = ExitStack()
        self._engine_number = model.engine_number
        self._events: list[GenerationEvent | NeuronError] = []
        self._told = 0
        self._take: Callable[[EventBeforeEnd], bool] | None = None  # see `forward`

    @property
    def retried(self) -> bool:
        return self._model.script.retried

    @property
    def usage(self) -> Usage:
        return Usage(prompt_tokens=self._model.script.prompt_tokens, completion_tokens=self._told)

    async def __aenter__(self) -> Self:
        model, script = self._model, self._model.script
        model.harness.requests.append(self._task)
        require_able(self._task, model.model_id, script.capabilities)
        if isinstance(self._task, Embed):
            check_dimensions(self._task.dimensions, width=len(script.vector))
        model.refuse_if_recovering()
        self._engine_number = model.engine_number
        if isinstance(self._task, Tokenize | Detokenize):
            with model.admission.place(principal=self._task.principal, refuse=lambda _refusal: None):
                self._events = _read_off(self._task, script.n_ctx)
            return self
        with ExitStack() as held:
            place = held.enter_context(
                model.admission.place(
                    self._seats,
                    principal=self._task.principal,
                    refuse=lambda _refusal: model.seats.wake(place.number),
                )
            )
            await model.wait_for(script.may_prepare, engine_number=self._engine_number)
            if script.prompt_tokens >= script.n_ctx:
                raise PromptTooLong(prompt_tokens=script.prompt_tokens, limit=script.n_ctx)
            await model.seats.take(place, self._seats)
            held.callback(model.seats.give_back, place.caller, self._seats)
            model.refuse_if_recovering()
            self._held = held.pop_all()
        self._engine_number = model.engine_number  # whoever waited for a seat may have outlived one
        model.harness.log.append(f"chat {model.model_id}")
        said = self._results()
        usage = Usage(prompt_tokens=script.prompt_tokens, completion_tokens=len(said))
        self._events = [
            Started(prompt_tokens=script.prompt_tokens),
            *self._echoes(),
            *said,
        ]
        if not isinstance(self._events[-1], Finished):
            self._events.append(Finished(reasons=(FinishReason.STOP,) * self._choices, usage=usage))
        return self

    def _results(self) -> list[GenerationEvent | NeuronError]:
        task, script = self._task, self._model.script
        match task:
            case Embed():
                vector = shortened(script.vector, task.dimensions)
                return [Embedding(index, vector) for index in range(len(task.inputs))]
            case Rerank():
                scores = zip(range(len(task.documents)), cycle(script.scores), strict=False)
                return [Relevance(index, score) for index, score in scores]
            case Chat() | Complete():
                return [event for item in script.reply for event in self._say(item, top_logprobs=task.top_logprobs)]
            case Tokenize() | Detokenize():
                return []  # it takes no seat, and was answered before

    def _echoes(self) -> list[TextDelta]:
        """The text of its prompt for each choice, if the task wants it."""
        task = self._task
        if not isinstance(task, Complete) or not task.echo:
            return []
        texts = [prompt if isinstance(prompt, str) else _spelled(prompt) for prompt in task.prompts]
        return [
            TextDelta(text, number * task.choices + choice)
            for number, text in enumerate(texts)
            for choice in range(task.choices)
        ]

    def _say(
        self, item: str | GenerationEvent | NeuronError, *, top_logprobs: int | None
    ) -> list[GenerationEvent | NeuronError]:
        """One item of the script, as every choice says it."""
        match item:
            case str():
                certain = TokenLogprob(item.encode(), 0.0, (Likely(item.encode(), 0.0),)[:top_logprobs])
                logprobs = () if top_logprobs is None else (certain,)
                return [TextDelta(item, choice, logprobs) for choice in range(self._choices)]
            case TextDelta() | ReasoningDelta() | ToolCall():
                return [replace(item, choice=choice) for choice in range(self._choices)]
            case _:
                return [item]

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._model.harness.log.append(f"end {self._model.model_id}")
        self._held.close()

    def __aiter__(self) -> Self:
        return self

    def forward(self, take: Callable[[EventBeforeEnd], bool]) -> None:
        """See `neuron_lib.harness.ForwardingReply`."""
        self._take = take

    async def __anext__(self) -> GenerationEvent:
        has_room = self._take is not None
        while isinstance(said := await self._next(), TextDelta | ReasoningDelta | ToolCall):
            if self._take is None or not has_room:
                break
            has_room = self._take(said)
        return said

    async def _next(self) -> GenerationEvent:
        if not self._events:
            raise StopAsyncIteration
        speaks = not isinstance(self._events[0], Started) and not isinstance(self._task, Tokenize | Detokenize)
        event = self._model.script.may_speak if speaks else None
        await self._model.wait_for(event, engine_number=self._engine_number)
        said = self._events.pop(0)
        if isinstance(said, NeuronError):
            self._events.clear()
            raise said
        self._told += not isinstance(said, Started | Finished)
        return said


def _read_off(task: Tokenize | Detokenize, context: int) -> list[GenerationEvent | NeuronError]:
    """The events of a task for which nothing is computed."""
    answer: Tokenized | Detokenized
    if isinstance(task, Detokenize):
        count = len(task.tokens)
        answer = Detokenized(_spelled(task.tokens))
    else:
        text = task.prompt if isinstance(task.prompt, str) else _written(task.prompt)
        tokens = tuple(text.encode())
        count = len(tokens)
        answer = Tokenized(
            tokens=tokens,
            context=context,
            text=text if task.wants_text else "",
            pieces=tuple(bytes((token,)) for token in tokens) if task.wants_pieces else (),
        )
    usage = Usage(prompt_tokens=count, completion_tokens=0)
    return [Started(prompt_tokens=count), answer, Finished(reasons=(FinishReason.STOP,), usage=usage)]


def _spelled(tokens: Iterable[int]) -> str:
    return bytes(token & 0xFF for token in tokens).decode(errors="replace")


def _written(chat: Chat) -> str:
    """The prompt of a chat, by the template that every scripted model has."""
    return "".join(f"{message['role']}: {message.get('content') or ''}\n" for message in chat.messages)


class ScriptedRunner:
    """Computes nothing: the n-th token of a sequence is n, spelled `pieces[n % len(pieces)]`.

    Request r ends itself after `eog_after[r]` tokens. `plans` keeps every plan it was given. `failures` maps a step
    number (from 0) to a failure text.
    """

    def __init__(
        self,
        *,
        eog_after: Mapping[int, int] | None = None,
        failures: Mapping[int, str] | None = None,
        duration_s: Callable[[StepPlan], float] = lambda plan: 0.001 * plan.token_count,
        pieces: Iterable[bytes] = (b"a ",),
    ) -> None:
        self.plans: list[StepPlan] = []
        self._eog_after = dict(eog_after or {})
        self._failures = dict(failures or {})
        self._duration_s = duration_s
        self._pieces = tuple(pieces)

    def run(self, plan: StepPlan) -> StepResult:
        step = len(self.plans)
        self.plans.append(plan)
        duration_s = self._duration_s(plan)
        if step in self._failures:
            return StepResult((), duration_s, Outcome.FAILED, self._failures[step])
        sampled = tuple((self._sample(chunk.sequence),) for chunk in plan.chunks if chunk.wants_logits)
        return StepResult(sampled, duration_s)

    def _sample(self, sequence: engine.Sequence) -> engine.Sampled:
        made = sequence.generated
        is_eog = made >= self._eog_after.get(sequence.request, 1 << 30)
        return engine.Sampled(
            token=made, piece=b"" if is_eog else self._pieces[made % len(self._pieces)], is_eog=is_eog
        )
