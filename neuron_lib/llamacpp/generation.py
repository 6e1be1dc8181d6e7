"""The replies to one request: prepared, admitted, started, read, and given up when their reader leaves."""

import logging
import secrets
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Self

import anyio

from neuron_lib.admission import AdmissionController
from neuron_lib.config import SamplingConfig
from neuron_lib.engine.protocol import Cancel, Delta, Done, ModelFacts, Prepare, Prepared, Start
from neuron_lib.errors import InvalidRequest, PromptTooLong, UnsupportedCapability
from neuron_lib.llamacpp.choice import Choice
from neuron_lib.llamacpp.engine_process import EngineProcess
from neuron_lib.llamacpp.mailbox import Mail, Mailbox
from neuron_lib.llamacpp.sampling import resolve_sampling
from neuron_lib.text.output_parser import OutputParser
from neuron_lib.text.reasoning import prompt_opens_reasoning
from neuron_lib.types import ChatRequest, Finished, GenerationEvent, Started, Usage

__all__ = ("LlamaCppGeneration",)

logger = logging.getLogger(__name__)

_SEED_BITS: Final = 32
_MOST_TOP_LOGPROBS: Final = 20
"""OpenAI's bound."""


class LlamaCppGeneration:
    """See `neuron_lib.harness.Generation`."""

    def __init__(
        self,
        request: ChatRequest,
        *,
        engine: EngineProcess,
        facts: ModelFacts,
        admission: AdmissionController,
        prompt_limit: int,
        sampling: SamplingConfig,
        cache_key: str,
        on_done: Callable[[Done], None],
    ) -> None:
        """`prompt_limit` is in tokens, `sampling` holds where the request says nothing.

        Requests of one `cache_key` may share what was computed of their prompts. `on_done` is told the engine's
        account of each reply that comes to its end.
        """
        self._request = request
        self._engine = engine
        self._facts = facts
        self._admission = admission
        self._prompt_limit = prompt_limit
        self._sampling = sampling
        self._cache_key = cache_key
        self._on_done = on_done
        self._permit = AsyncExitStack()
        self._number = 0  # until the engine knows of it
        self._mailbox = Mailbox()
        self._choices: tuple[Choice, ...] = ()
        self._events: list[GenerationEvent] = []
        self._finished: Finished | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._begin()
        except BaseException:
            await self._let_go()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._let_go()
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
        while not self._events:
            if self._finished is not None:
                raise StopAsyncIteration
            self._take(await self._mailbox.get())
        return self._events.pop(0)

    async def _begin(self) -> None:
        request = self._request
        self._refuse_if_impossible()
        self._admission.refuse_if_hopeless(request.choices)
        self._number, self._mailbox = self._engine.open_mailbox()
        self._engine.post(
            Prepare(
                request=self._number,
                messages=request.messages,
                tools=request.tools,
                template_kwargs=request.template_kwargs,
                grammar=request.grammar,
            )
        )
        prepared = await self._mailbox.get()
        assert isinstance(prepared, Prepared)  # the engine answers Prepare with this or a refusal
        if prepared.prompt_tokens > self._prompt_limit:
            raise PromptTooLong(prompt_tokens=prepared.prompt_tokens, limit=self._prompt_limit)
        await self._permit.enter_async_context(self._admission.admit(request.choices))
        self._choices = tuple(Choice(i, self._parser(prepared.prompt_end)) for i in range(request.choices))
        self._engine.post(
            Start(
                request=self._number,
                sampling=resolve_sampling(
                    request.sampling,
                    recommended=self._facts.recommended,
                    defaults=self._sampling,
                    fresh_seed=secrets.randbits(_SEED_BITS),
                ),
                max_tokens=self._sampling.max_tokens if request.max_tokens is None else request.max_tokens,
                stop=request.stop,
                choices=request.choices,
                top_logprobs=request.top_logprobs,
                cache_key=self._cache_key,
            )
        )
        self._events.append(Started(prompt_tokens=prepared.prompt_tokens))

    def _refuse_if_impossible(self) -> None:
        """Raise for what no engine needs to be asked about."""
        request, model_id = self._request, self._engine.model_id
        if any(isinstance(message.get("content"), list) for message in request.messages):
            # Text-only part lists became text at the edge, so what is left shows pictures.
            raise UnsupportedCapability(
                f"model {model_id!r} reads text only and cannot see images",
                model_id=model_id,
                suggestion="send text content, or choose a model with the vision capability",
            )
        if "" in request.stop:
            raise InvalidRequest("a stop string must not be empty", param="stop")
        if not 0 <= (request.top_logprobs or 0) <= _MOST_TOP_LOGPROBS:
            text = f"top_logprobs: {request.top_logprobs} likely tokens, where 0 to {_MOST_TOP_LOGPROBS} are possible"
            raise InvalidRequest(text, param="top_logprobs")
        if request.grammar is not None and request.tools:
            text = "tools and a grammar (response_format) exclude each other: in a text that is bound no tool is called"
            raise InvalidRequest(text, param="tools")

    def _parser(self, prompt_end: str) -> OutputParser:
        """A parser for one reply. A grammar binds all of it, so none of it is reasoning, whatever the prompt opened."""
        request, facts = self._request, self._facts
        reasoning = facts.reasoning if request.grammar is None else None
        return OutputParser(
            reasoning=reasoning,
            tool_call=facts.tool_call if request.tools else None,
            starts_in_reasoning=reasoning is not None and prompt_opens_reasoning(prompt_end, reasoning),
            include_thinking=request.include_thinking,
            tools=request.tools,
        )

    async def _let_go(self) -> None:
        """Free what is held for this request: in the engine first, which must not hear of the next one before."""
        if self._number:
            if self._finished is None:
                self._engine.post(Cancel(self._number))
            self._engine.close_mailbox(self._number)
        await self._permit.aclose()

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
        return {"model_id": self._engine.model_id, "request": self._number}
