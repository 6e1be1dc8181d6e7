"""`POST /v1/chat/completions` (wire contract §1.8)."""

from typing import Any

from litestar import Request, post
from litestar.types import ASGIApp

from neuron_lib.types import Principal
from neuron_lib.wire.openai_chat import decode_chat_request
from neuron_lib.wire.openai_chat_reply import StreamUsage
from neuron_service.host_dependency import HostDependency
from neuron_service.sse import ChatCompletion, ChatStream

__all__ = ("chat_completions",)

_TRUTHY = frozenset({"1", "true", "yes"})


@post("/v1/chat/completions", status_code=200)
async def chat_completions(request: Request[Any, Any, Any], host: HostDependency) -> ASGIApp:
    """Answer a chat, streamed or whole."""
    headers = request.headers
    account, key = headers.get("x-helexa-account-id"), headers.get("x-helexa-key-id")
    body = await request.body()
    await host.turn_to_decode(body)
    call = decode_chat_request(
        body,
        content_type=headers.get("content-type"),
        include_thinking=headers.get("x-include-thinking", "").strip().lower() in _TRUTHY,
        principal=Principal(account, key) if account and key else None,
    )
    host.require_harness()
    generation = host.registry.chat(call.request)
    if not call.stream:
        return ChatCompletion(generation, model=call.model, parallel_tool_calls=call.parallel_tool_calls)
    return ChatStream(
        generation,
        model=call.model,
        choices=call.request.choices,
        usage=StreamUsage.OWN_CHUNK if call.include_usage else StreamUsage.WITH_FINISH,
        parallel_tool_calls=call.parallel_tool_calls,
    )
