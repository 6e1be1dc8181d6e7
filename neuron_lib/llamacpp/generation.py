"""One reply from an engine: prepared, admitted, started, read, and given up when its reader leaves."""

import logging
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Self

import anyio

from neuron_lib.admission import AdmissionController
from neuron_lib.config import SamplingConfig
from neuron_lib.engine.protocol import Cancel, Delta, Done, ModelFacts, Prepare, Prepared, Start
from neuron_lib.errors import InvalidRequest, PromptTooLong, UnsupportedCapability
from neuron_lib.llamacpp.engine_process import EngineProcess
from neuron_lib.llamacpp.mailbox import Mail, Mailbox
from neuron_lib.llamacpp.sampling import resolve_sampling
from neuron_lib.text.output_parser import OutputParser
from neuron_lib.text.reasoning import prompt_opens_reasoning
from neuron_lib.types import ChatRequest, Finished, FinishReason, GenerationEvent, Started, Usage

__all__ = ("LlamaCppGeneration",)

logger = logging.getLogger(__name__)

_SEED_BITS: Final = 32


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
        on_done: Callable[[Done], None],
    ) -> None:
        """`prompt_limit` is in tokens, `sampling` holds where the request says nothing.

        `on_done` is told the engine's account of the reply, if it comes to its end.
        """
        self._request = request
        self._engine = engine
        self._facts = facts
        self._admission = admission
        self._prompt_limit = prompt_limit
        self._sampling = sampling
        self._on_done = on_done
        self._permit = AsyncExitStack()
        self._number = 0  # until the engine knows of it
        self._mailbox = Mailbox()
        self._parser: OutputParser | None = None
        self._events: list[GenerationEvent] = []
        self._tokens_seen = 0
        self._reasoning_tokens = 0
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
                "finish_reason": finished.reason.value,
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
        self._admission.refuse_if_hopeless()
        self._number, self._mailbox = self._engine.open_mailbox()
        self._engine.post(
            Prepare(
                request=self._number,
                messages=request.messages,
                tools=request.tools,
                template_kwargs=request.template_kwargs,
            )
        )
        prepared = await self._mailbox.get()
        assert isinstance(prepared, Prepared)  # the engine answers Prepare with this or a refusal
        facts = self._facts
        if prepared.prompt_tokens > self._prompt_limit:
            raise PromptTooLong(prompt_tokens=prepared.prompt_tokens, limit=self._prompt_limit)
        await self._permit.enter_async_context(self._admission.admit())
        self._parser = OutputParser(
            reasoning=facts.reasoning,
            tool_call=facts.tool_call if request.tools else None,
            starts_in_reasoning=facts.reasoning is not None
            and prompt_opens_reasoning(prepared.prompt_end, facts.reasoning),
            include_thinking=request.include_thinking,
            tools=request.tools,
        )
        self._engine.post(
            Start(
                request=self._number,
                sampling=resolve_sampling(
                    request.sampling,
                    recommended=facts.recommended,
                    defaults=self._sampling,
                    fresh_seed=secrets.randbits(_SEED_BITS),
                ),
                max_tokens=self._sampling.max_tokens if request.max_tokens is None else request.max_tokens,
                stop=request.stop,
            )
        )
        self._events.append(Started(prompt_tokens=prepared.prompt_tokens))

    async def _let_go(self) -> None:
        """Free what is held for this request: in the engine first, which must not hear of the next one before."""
        if self._number:
            if self._finished is None:
                self._engine.post(Cancel(self._number))
            self._engine.close_mailbox(self._number)
        await self._permit.aclose()

    def _take(self, mail: Mail) -> None:
        parser = self._parser
        assert parser is not None  # started
        match mail:
            case Delta(text=text, tokens=tokens):
                self._events.extend(parser.feed(text))
                self._count_tokens(tokens, parser)
            case Done():
                self._events.extend(parser.feed(mail.text))
                self._count_tokens(mail.completion_tokens - self._tokens_seen, parser)  # its last has no delta
                self._events.extend(parser.finish())
                reason = mail.reason
                if parser.tool_calls_seen and reason is FinishReason.STOP:
                    reason = FinishReason.TOOL_CALLS
                self._finished = Finished(
                    reasons=(reason,),
                    usage=Usage(
                        prompt_tokens=mail.prompt_tokens,
                        completion_tokens=mail.completion_tokens,
                        reasoning_tokens=self._reasoning_tokens,
                        prefill_ms=round(mail.prefill_s * 1000),
                        decode_ms=round(mail.decode_s * 1000),
                    ),
                )
                self._on_done(mail)
                self._events.append(self._finished)
            case Prepared():
                raise AssertionError("a prompt is prepared once")

    def _count_tokens(self, count: int, parser: OutputParser) -> None:
        self._tokens_seen += count
        if parser.in_reasoning:
            self._reasoning_tokens += count

    def _labels(self) -> dict[str, object]:
        return {"model_id": self._engine.model_id, "request": self._number}
