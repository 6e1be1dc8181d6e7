"""The replies to a chat as an HTTP answer, streamed or whole. Owns the generation from entering to leaving it."""

import secrets
import time
from typing import Final

import anyio

from neuron_lib import Embedding, Finished, Generation, GenerationEvent, NeuronError, Started
from neuron_lib.logs import get_logger
from neuron_lib.types import FinishReason, ToolCall, Usage
from neuron_lib.wire.openai_chat_reply import DONE, ChatCollector, ChatStreamEncoder, StreamUsage
from neuron_lib.wire.openai_errors import envelope
from neuron_service.asgi import Receive, Scope, Send
from neuron_service.client import SEND_LIMIT_S, while_connected
from neuron_service.outlet import ClientStalled, EventOutlet
from neuron_service.refusals import error_fields, internal_error

__all__ = ("SILENCE_LIMIT_S", "ChatCompletion", "ChatStream")

logger = get_logger(__name__)

SILENCE_LIMIT_S: Final = 1.0
"""After that long without an event a comment is sent (wire contract §1.8): impatient clients hang up on silence."""


class ChatCompletion:
    """The whole replies in one JSON body, or an exception that says why there is none."""

    def __init__(self, generation: Generation, *, model: str, parallel_tool_calls: bool = True) -> None:
        """Without `parallel_tool_calls` each reply calls one tool at most: its further calls are left out."""
        self._generation = generation
        self._parallel_tool_calls = parallel_tool_calls
        self._collector = ChatCollector(id=_completion_id(), created=int(time.time()), model=model)

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        body = await while_connected(receive, self._collect)
        if body is None:
            return
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *_own_headers(self._generation),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        with anyio.move_on_after(SEND_LIMIT_S):
            await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _collect(self) -> bytes:
        async with self._generation as events:
            async for event in events:
                if self._parallel_tool_calls or not _is_further_call(event):
                    self._collector.add(event)
        return self._collector.body()


class ChatStream:
    """`choices` replies as server-sent events. What goes wrong before the first of these is raised, as an ordinary
    error; what goes wrong later ends them with `length`, the usage so far and an `error` event, without `[DONE]`.
    """

    def __init__(
        self,
        generation: Generation,
        *,
        model: str,
        choices: int = 1,
        usage: StreamUsage = StreamUsage.WITH_FINISH,
        parallel_tool_calls: bool = True,
        silence_limit_s: float = SILENCE_LIMIT_S,
    ) -> None:
        """Without `parallel_tool_calls` each reply calls one tool at most: its further calls are left out."""
        self._generation = generation
        self._choices = choices
        self._parallel_tool_calls = parallel_tool_calls
        self._silence_limit_s = silence_limit_s
        self._encoder = ChatStreamEncoder(id=_completion_id(), created=int(time.time()), model=model, usage=usage)
        self._is_open = False

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        outlet = EventOutlet(send, silence_limit_s=self._silence_limit_s)
        try:
            await while_connected(receive, lambda: self._answer(outlet), beside=outlet.watch)
        except ClientStalled:
            logger.info("client stopped reading, its reply was given up")

    async def _answer(self, outlet: EventOutlet) -> None:
        try:
            async with self._generation as events:
                await outlet.open(_own_headers(events))
                self._is_open = True
                await outlet.send(self._encoder.roles(self._choices))
                async for event in events:
                    if isinstance(event, Finished):
                        await outlet.send(self._encoder.finish(event.reasons, event.usage) + DONE)
                    elif not isinstance(event, Started | Embedding) and (
                        self._parallel_tool_calls or not _is_further_call(event)
                    ):
                        await outlet.send(self._encoder.event(event))
        except Exception as error:
            if not self._is_open:
                raise
            await outlet.send(self._lost(_log_lost_reply(error)))
        await outlet.send(b"", more=False)

    def _lost(self, error: NeuronError) -> bytes:
        """The end of a stream without the end of its replies: what was said was a reply cut short, and is paid for."""
        # A harness of somebody else may not know yet that it is asked for this.
        usage = getattr(self._generation, "usage", None) or Usage(prompt_tokens=0, completion_tokens=0)
        end = self._encoder.finish((FinishReason.LENGTH,) * self._choices, usage)
        return end + self._encoder.error(envelope(error))


def _is_further_call(event: GenerationEvent) -> bool:
    return isinstance(event, ToolCall) and event.index > 0


def _own_headers(generation: Generation) -> list[tuple[bytes, bytes]]:
    """A stream says what was known when it began; a later retry is only in the log."""
    return [(b"x-neuron-retried", b"1")] if generation.retried else []


def _log_lost_reply(error: Exception) -> NeuronError:
    """Log why a reply ends half-way; returns what its reader is told."""
    if isinstance(error, NeuronError):
        logger.warning("stream ended by an error: %s", error.log_message, extra=error_fields(error))
        return error
    logger.error("bug in a stream", exc_info=error)
    return internal_error(error)


def _completion_id() -> str:
    return f"chatcmpl-{secrets.token_hex(12)}"
