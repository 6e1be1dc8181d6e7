"""The replies to one request: admitted, prepared, started, read, and given up when their reader leaves."""

import secrets
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

import anyio

from neuron_lib.admission import AdmissionController, Place
from neuron_lib.config import SamplingConfig
from neuron_lib.engine.protocol import Cancel, Delta, Done, Prepare, Prepared, Start
from neuron_lib.errors import EngineDead, InvalidRequest, PromptTooLong, SuspectRequest, UnsupportedCapability
from neuron_lib.llamacpp.choice import Choice
from neuron_lib.llamacpp.engine_process import EngineProcess
from neuron_lib.llamacpp.mailbox import Mail, Mailbox
from neuron_lib.llamacpp.sampling import resolve_sampling
from neuron_lib.llamacpp.supervisor import EngineSupervisor
from neuron_lib.llamacpp.suspects import Suspects, fingerprint
from neuron_lib.logs import get_logger
from neuron_lib.modality import require_chat
from neuron_lib.text.output_parser import OutputParser
from neuron_lib.text.reasoning import prompt_opens_reasoning
from neuron_lib.types import (
    ChatRequest,
    Finished,
    GenerationEvent,
    Started,
    UnreadArray,
    UnreadObject,
    Usage,
    first_medium,
)

__all__ = ("LlamaCppGeneration",)

logger = get_logger(__name__)

_SEED_BITS: Final = 32
_MOST_TOP_LOGPROBS: Final = 20
"""OpenAI's bound."""
_SUCCESSOR_LIMIT_S: Final = 120.0
"""A request whose engine died waits no longer than this for the next one."""
_PREPARE_LIMIT_S: Final = 30.0
"""One waits at least this long for its prompt to be read, and longer where it may wait longer for its seat."""


class LlamaCppGeneration:
    """See `neuron_lib.harness.Generation`."""

    def __init__(
        self,
        request: ChatRequest,
        *,
        supervisor: EngineSupervisor,
        admission: AdmissionController,
        suspects: Suspects,
        max_prompt_tokens: int,
        sampling: SamplingConfig,
        cache_key: str,
        on_done: Callable[[Done], None],
    ) -> None:
        """`sampling` holds where the request says nothing, `suspects` are the model's.

        Requests of one `cache_key` may share what was computed of their prompts. `on_done` is told the engine's
        account of each reply that comes to its end.
        """
        self._request = request
        self._supervisor = supervisor
        self._engine: EngineProcess | None = None  # that knows of this request
        self._admission = admission
        self._suspects = suspects
        self._max_prompt_tokens = max_prompt_tokens
        self._sampling = sampling
        self._cache_key = cache_key
        self._on_done = on_done
        self._held = ExitStack()
        self._place: Place | None = None  # in the line, and then on its seats
        self._number = 0
        self._prompt_tokens = 0
        self._mailbox = Mailbox()
        self._choices: tuple[Choice, ...] = ()
        self._events: deque[GenerationEvent] = deque()
        self._finished: Finished | None = None
        self._first_death: str | None = None

    @property
    def retried(self) -> bool:
        return self._first_death is not None

    @property
    def usage(self) -> Usage:
        if self._finished is not None:
            return self._finished.usage
        return Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=sum(choice.tokens for choice in self._choices),
            reasoning_tokens=sum(choice.reasoning_tokens for choice in self._choices),
        )

    async def __aenter__(self) -> Self:
        try:
            self._refuse_if_impossible()
            self._refuse_if_suspect()
            engine = self._supervisor.require_engine()
            self._place = self._held.enter_context(self._admission.place(self._request.choices))
            await self._begin(engine)
        except BaseException:
            self._let_go()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._let_go()
        finished = self._finished
        if finished is None:
            outcome = "abandoned"
            if exc_type is not None and not issubclass(exc_type, anyio.get_cancelled_exc_class()):
                outcome = exc_type.__name__
            logger.info("reply ended early", extra=self._labels() | {"outcome": outcome})
            return
        usage = finished.usage
        logger.info(
            "reply finished",
            extra=self._labels()
            | {
                "finish_reason": ",".join(finished.reasons),
                "prompt_tokens": usage.prompt_tokens,
                "cached_tokens": usage.cached_tokens,
                "completion_tokens": usage.completion_tokens,
                "reasoning_tokens": usage.reasoning_tokens,
                "prefill_ms": usage.prefill_ms,
                "decode_ms": usage.decode_ms,
            },
        )

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> GenerationEvent:
        while self._finished is None and (self._request.whole or not self._events):
            try:
                self._take(await self._mailbox.get())
            except EngineDead as death:
                await self._begin(await self._survivor(death))
        if not self._events:
            raise StopAsyncIteration
        return self._events.popleft()

    async def _begin(self, engine: EngineProcess) -> None:
        """Prepare the prompt, get a seat, start; all of it once more on another engine if this one dies of it."""
        while True:
            try:
                prepared = await self._prepare(engine)
            except EngineDead as death:
                engine = await self._survivor(death)
                continue
            assert self._place is not None  # taken on entering
            await self._place.take_seat()
            if engine.death is None:
                self._start(engine, prepared)
                return
            # It died while this one only waited for a seat.
            engine = await self._successor(engine)

    async def _prepare(self, engine: EngineProcess) -> Prepared:
        request = self._request
        # Its seats are free when the engine has finished, however slowly that is read.
        self._number, self._mailbox = engine.open_mailbox(choices=request.choices, on_complete=self._held.close)
        self._engine = engine
        engine.if_alone(self._number, self._accuse)
        engine.post(_prepare(self._number, request))
        prepared = await self._prepared()
        # Each engine has the context that it found memory for.
        limit = engine.facts.prompt_limit(self._max_prompt_tokens)
        if prepared.prompt_tokens > limit:
            raise PromptTooLong(prompt_tokens=prepared.prompt_tokens, limit=limit)
        return prepared

    async def _prepared(self) -> Prepared:
        assert self._place is not None  # taken on entering
        limit_s = max(self._admission.max_wait_s, _PREPARE_LIMIT_S)
        with anyio.move_on_after(limit_s):
            prepared = await self._mailbox.get()
            assert isinstance(prepared, Prepared)  # the engine answers Prepare with this or a refusal
            return prepared
        raise self._place.expired(f"the prompt was not read within {limit_s:g} s, others come first")

    def _start(self, engine: EngineProcess, prepared: Prepared) -> None:
        request = self._request
        self._prompt_tokens = prepared.prompt_tokens
        if request.whole or not self._choices:  # else it has been said
            self._events = deque([Started(prompt_tokens=prepared.prompt_tokens)])
        self._choices = tuple(Choice(i, self._parser(prepared.prompt_end)) for i in range(request.choices))
        engine.post(
            Start(
                request=self._number,
                sampling=resolve_sampling(
                    request.sampling,
                    recommended=self._supervisor.facts.recommended,
                    defaults=self._sampling,
                    fresh_seed=secrets.randbits(_SEED_BITS),
                ),
                max_tokens=self._sampling.max_tokens if request.max_tokens is None else request.max_tokens,
                stop=(*request.stop, *engine.facts.stop),
                choices=request.choices,
                top_logprobs=request.top_logprobs,
                cache_key=self._cache_key,
            )
        )

    async def _survivor(self, death: EngineDead) -> EngineProcess:
        """The engine to go on with after a death.

        Raises the death if no engine comes or something was given out already, and `SuspectRequest` for whom two
        engines had in hand when they died. Whoever only waited goes on waiting, as often as it takes.
        """
        dead, request = self._engine, self._request
        assert dead is not None  # it has said so
        if self._supervisor.loss is not None:
            raise death
        if not request.whole and any(choice.has_begun for choice in self._choices):
            raise death
        if self._number in dead.died_with:
            self._refuse_if_suspect()
            if self._first_death is not None:
                raise SuspectRequest(self._supervisor.model_id, self._first_death, death.reason) from death
            self._first_death = death.reason
            fields = self._labels() | {"reason": death.reason}
            logger.warning("engine died, the request is tried once more", extra=fields)
        return await self._successor(dead)

    async def _successor(self, dead: EngineProcess) -> EngineProcess:
        with anyio.move_on_after(_SUCCESSOR_LIMIT_S):
            return await self._supervisor.successor(dead)
        raise EngineDead(self._supervisor.model_id, f"{dead.death}; none has come since for {_SUCCESSOR_LIMIT_S:g} s")

    def _accuse(self, death: str) -> None:
        _accuse(self._suspects, fingerprint(self._request), death)

    def _refuse_if_suspect(self) -> None:
        """Raise for what was alone in two engines that died, before it takes a third one along."""
        deaths = self._suspects.verdict(self._request, now_s=anyio.current_time())
        if deaths is not None:
            raise SuspectRequest(self._supervisor.model_id, *deaths)

    def _refuse_if_impossible(self) -> None:
        """Raise for what no engine needs to be asked about."""
        request, model_id = self._request, self._supervisor.model_id
        require_chat(model_id, self._supervisor.facts.capabilities)
        medium = first_medium(request.messages)
        if medium is not None:
            raise UnsupportedCapability(
                f"model {model_id!r} reads text only, and a message has a part that is no text but {medium}",
                code="vision_unsupported" if medium == "image" else f"{medium}_unsupported",
                model_id=model_id,
                suggestion="send text content, or choose a model with the capability",
            )
        if "" in request.stop:
            raise InvalidRequest("a stop string must not be empty", param="stop")
        if not 0 <= (request.top_logprobs or 0) <= _MOST_TOP_LOGPROBS:
            text = f"top_logprobs: {request.top_logprobs} likely tokens, where 0 to {_MOST_TOP_LOGPROBS} are possible"
            raise InvalidRequest(text, param="top_logprobs")
        n_vocab = self._supervisor.facts.n_vocab
        beyond = [token for token in request.sampling.logit_bias if n_vocab and not 0 <= token < n_vocab]
        if beyond:
            place = f"logit_bias.{beyond[0]}"
            raise InvalidRequest(f"{place}: the model has tokens 0 to {n_vocab - 1}", param=place)
        if request.grammar is not None and request.tools:
            text = "tools and a grammar (response_format) exclude each other: in a text that is bound no tool is called"
            raise InvalidRequest(text, param="tools")

    def _parser(self, prompt_end: str) -> OutputParser:
        """A parser for one reply. A grammar binds all of it, so none of it is reasoning, whatever the prompt opened."""
        request, facts = self._request, self._supervisor.facts
        reasoning = facts.reasoning if request.grammar is None else None
        return OutputParser(
            reasoning=reasoning,
            tool_call=facts.tool_call if request.tools else None,
            starts_in_reasoning=reasoning is not None and prompt_opens_reasoning(prompt_end, reasoning),
            include_thinking=request.include_thinking,
            tools=request.tools,
        )

    def _let_go(self) -> None:
        """Free what is held for this request: in the engine first, which must not hear of the next one before."""
        if self._engine is not None:
            if self._finished is None:
                self._engine.post(Cancel(self._number))
                if self._engine.knows(self._number):
                    # It may still die of this; the text, of which there may be much, is not kept for that.
                    key = fingerprint(self._request)
                    self._engine.if_alone(self._number, partial(_accuse, self._suspects, key))
            self._engine.close_mailbox(self._number)
        self._held.close()

    def _take(self, mail: Mail) -> None:
        match mail:
            case Delta():
                self._events += self._choices[mail.choice].feed(mail)
            case Done():
                self._events += self._choices[mail.choice].finish(mail)
                self._on_done(mail)
                done = [choice.done for choice in self._choices if choice.done is not None]
                if len(done) == len(self._choices):
                    self._finished = Finished(
                        reasons=tuple(choice.reason for choice in self._choices), usage=self._usage(done)
                    )
                    self._events.append(self._finished)
            case Prepared():
                raise AssertionError("a prompt is prepared once")

    def _usage(self, done: Sequence[Done]) -> Usage:
        """The bill: the prompt once, as the first choice found it, and every token of every choice."""
        return Usage(
            prompt_tokens=done[0].prompt_tokens,
            completion_tokens=sum(each.completion_tokens for each in done),
            cached_tokens=done[0].cached_tokens,
            reasoning_tokens=sum(choice.reasoning_tokens for choice in self._choices),
            # Choices live through the same steps side by side.
            prefill_ms=round(max(each.prefill_s for each in done) * 1000),
            decode_ms=round(max(each.decode_s for each in done) * 1000),
        )

    def _labels(self) -> dict[str, object]:
        return {"model_id": self._supervisor.model_id, "request": self._number}


def _prepare(number: int, request: ChatRequest) -> Prepare:
    """The command to prepare a request. What came as JSON text is passed on as such."""
    told: dict[str, Any] = {
        "messages": request.messages,
        "tools": request.tools,
        "template_kwargs": request.template_kwargs,
    }
    unread = {name: part.text for name, part in told.items() if isinstance(part, UnreadArray | UnreadObject)}
    read = {name: part for name, part in told.items() if name not in unread}
    return Prepare(request=number, grammar=request.grammar, unread=unread, **read)


def _accuse(suspects: Suspects, key: bytes | None, death: str) -> None:
    suspects.accuse(key, death, now_s=anyio.current_time())
