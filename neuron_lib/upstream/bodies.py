"""A task as the request that an upstream gets. Pure.

Everything that the task asks for is in the body, or is refused with its name: nothing is left out in silence.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, assert_never

import msgspec
from msgspec import Raw, Struct

from neuron_lib.errors import InvalidRequest, RequestRejected, UnsupportedCapability
from neuron_lib.modality import require_able
from neuron_lib.types import (
    Chat,
    Complete,
    Detokenize,
    Embed,
    Grammar,
    Rerank,
    SamplingParams,
    Task,
    Tokenize,
    ToolChoice,
    UnreadArray,
    UnreadObject,
    first_medium,
)
from neuron_lib.upstream.api import UpstreamApi

__all__ = ("UpstreamCall", "call_of", "guessed_prompt_tokens", "refuse_if_impossible")

_ANY_OBJECT: Final = '{"type":"object"}'
_DEFAULT_WORDS: Final[Mapping[str, Any]] = {"enable_thinking": False}
"""What the arguments of the template are if the client has said nothing."""
_REASONING_WORDS: Final = frozenset(
    {"enable_thinking", "thinking", "thinking_mode", "thinking_budget", "reasoning_effort"}
)
_BYTES_OF_TOKEN: Final = 4


class UpstreamCall(Struct, frozen=True, kw_only=True):
    """One request: `POST path` with the JSON `body`. `is_stream` says whether the answer is a stream of events.

    `shows_thinking` asks the server for the reasoning as a part of the text.
    """

    path: str
    body: bytes
    is_stream: bool = False
    shows_thinking: bool = False


def refuse_if_impossible(task: Task, *, model_id: str, capabilities: tuple[str, ...], api: UpstreamApi) -> None:
    """Raise the `RequestRejected` for a task that no server needs to be asked about.

    With the capability `vision` images are passed on. Other media than images are refused.
    """
    require_able(task, model_id, capabilities)
    if getattr(task, "adapter", ""):
        raise UnsupportedCapability(
            f"model {model_id!r} has no adapter of this host: ask its own server", code="adapter_unsupported"
        )
    if isinstance(task, Tokenize | Detokenize) and not api.tokenize:
        raise UnsupportedCapability(
            f"the server of model {model_id!r} does not tell its tokens", code="tokenize_unsupported", model_id=model_id
        )
    if isinstance(task, Rerank) and not api.rerank:
        raise UnsupportedCapability(
            f"the server of model {model_id!r} ranks no documents", code="rerank_unsupported", model_id=model_id
        )
    chat = task.prompt if isinstance(task, Tokenize) else task
    if isinstance(chat, Chat):
        _refuse_media(chat, model_id=model_id, capabilities=capabilities)
    _refuse_empty(task)


def _refuse_media(chat: Chat, *, model_id: str, capabilities: tuple[str, ...]) -> None:
    medium = first_medium(chat.messages)
    if medium is None or (medium == "image" and "vision" in capabilities):
        return
    raise UnsupportedCapability(
        f"model {model_id!r} is not known to read a part that is {medium}",
        code="vision_unsupported" if medium == "image" else f"{medium}_unsupported",
        model_id=model_id,
        suggestion="send text content, or choose a model with the capability",
    )


def _refuse_empty(task: Task) -> None:
    match task:
        case Embed(inputs=()):
            raise InvalidRequest("input: there is nothing to make a vector of", param="input")
        case Rerank(query=""):
            raise InvalidRequest("query: there is no question to rank by", param="query")
        case Rerank(documents=()):
            raise InvalidRequest("documents: there is nothing to rank", param="documents")
        case Chat(stop=stop) | Complete(stop=stop) if "" in stop:
            raise InvalidRequest("a stop string must not be empty", param="stop")


def call_of(task: Task, *, model: str, api: UpstreamApi) -> UpstreamCall:
    """The request for `task`. `model` is the server's name for the model.

    Raises `InvalidRequest`, whose `param` is the field, for what the server is not known to understand.
    """
    match task:
        case Chat():
            shows = task.include_thinking and api.shows_thinking
            body = _chat(task, api) | {"stream": True, "stream_options": _stream_options(api)}
            return _call("/v1/chat/completions", model, body, is_stream=True, shows_thinking=shows)
        case Complete():
            body = _completion(task, api) | {"stream": True, "stream_options": _stream_options(api)}
            return _call("/v1/completions", model, body, is_stream=True)
        case Embed():
            dimensions = {} if task.dimensions is None else {"dimensions": task.dimensions}
            body = {"input": task.inputs, "encoding_format": "float", **dimensions}
            return _call("/v1/embeddings", model, body)
        case Rerank():
            return _call("/v1/rerank", model, {"query": task.query, "documents": task.documents})
        case Tokenize():
            return _tokenize(task, model=model, api=api)
        case Detokenize():
            return _call("/detokenize", model, {"tokens": task.tokens})
        case _:
            assert_never(task)


def _call(
    path: str, model: str, body: dict[str, Any], *, is_stream: bool = False, shows_thinking: bool = False
) -> UpstreamCall:
    try:
        text = msgspec.json.encode({"model": model, **body})
    except (TypeError, ValueError, OverflowError, RecursionError):
        problem = "the request holds a value that JSON cannot hold"
        raise InvalidRequest(problem, summary=problem) from None
    return UpstreamCall(path=path, body=text, is_stream=is_stream, shows_thinking=shows_thinking)


def guessed_prompt_tokens(call: UpstreamCall) -> int:
    """How many tokens the prompt may have, for a server that does not say so. Four bytes make one."""
    return max(1, len(call.body) // _BYTES_OF_TOKEN)


def _tokenize(task: Tokenize, *, model: str, api: UpstreamApi) -> UpstreamCall:
    if isinstance(task.prompt, Chat):
        body = _chat(task.prompt, api)
        if task.wants_text:
            return _call("/apply-template", model, body)
        return _call("/tokenize", model, body | {"with_pieces": task.wants_pieces})
    asked = {"add_special": task.add_special, "parse_special": task.parse_special, "with_pieces": task.wants_pieces}
    return _call("/tokenize", model, {"content": task.prompt, **asked})


def _stream_options(api: UpstreamApi) -> dict[str, bool]:
    so_far = {"continuous_usage_stats": True} if api.has_usage_so_far else {}
    return {"include_usage": True, **so_far}


# ---------------------------------------------------------------------------------------------------- chats


def _chat(task: Chat, api: UpstreamApi) -> dict[str, Any]:
    """The body of a chat, without what makes it a stream."""
    body = {"messages": _unread(task.messages), **_writing(task, api, max_tokens=api.max_tokens)}
    if task.tools and task.tool_choice.mode != "none":
        body |= {"tools": _unread(task.tools), **_tool_choice(task.tool_choice)}
    if task.top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": task.top_logprobs}
    if task.grammar is not None:
        body |= _shape(task.grammar, api)
    return body | _reasoning(task, api) | _continues(task, api)


def _unread(value: Sequence[Any] | Mapping[str, Any]) -> Any:
    """What came as JSON text goes on as it came."""
    return Raw(value.text) if isinstance(value, UnreadArray | UnreadObject) else value


def _tool_choice(choice: ToolChoice) -> dict[str, Any]:
    parallel: dict[str, Any] = {} if choice.parallel else {"parallel_tool_calls": False}
    if choice.name is not None:
        return {"tool_choice": {"type": "function", "function": {"name": choice.name}}, **parallel}
    return ({} if choice.mode == "auto" else {"tool_choice": choice.mode}) | parallel


def _reasoning(task: Chat, api: UpstreamApi) -> dict[str, Any]:
    """How much to reason, and what else the template is to know."""
    if api.template_kwargs:
        body = {api.template_kwargs: _unread(task.template_kwargs)} if task.template_kwargs else {}
    else:
        body = _without_template(task, api)
    if task.reasoning_budget is not None:
        if not api.reasoning_budget:
            raise _unknown("thinking_budget", "a bound of the tokens of reasoning")
        body[api.reasoning_budget] = task.reasoning_budget
    return body


def _without_template(task: Chat, api: UpstreamApi) -> dict[str, Any]:
    """The arguments of the template for a server that takes none: only how much to reason can be said."""
    words = dict(task.template_kwargs)
    if words == _DEFAULT_WORDS or not words:
        return {}
    for name in words:
        if name not in _REASONING_WORDS:
            raise _unknown(f"chat_template_kwargs.{name}", "arguments of the chat template")
    thinks, effort = words.get("enable_thinking"), words.get("reasoning_effort")
    if effort is None and thinks is False:
        effort = "none"
    if not api.reasoning_effort or not isinstance(effort, str):
        if (
            thinks is True
            and not isinstance(effort, str)
            and task.include_thinking
            and words.keys() <= {"enable_thinking"}
        ):
            return {}  # the default of a client that wants to see the reasoning, if there is some
        raise _unknown("enable_thinking", "a switch for reasoning; give `reasoning_effort`")
    return {"reasoning_effort": effort}


def _continues(task: Chat, api: UpstreamApi) -> dict[str, Any]:
    """Whether the reply goes on with the last message."""
    wanted = task.continue_final_message
    if api.continues == "asked":
        return {} if wanted is None else {"continue_final_message": wanted, "add_generation_prompt": not wanted}
    if wanted and api.continues == "never":
        raise _unknown("continue_final_message", "a message that is begun and not ended")
    if wanted is False and api.continues == "always" and _ends_with_assistant(task.messages):
        raise _unknown("continue_final_message", "a new message behind one of the assistant")
    return {}


def _ends_with_assistant(messages: Sequence[Mapping[str, Any]]) -> bool:
    try:
        return bool(messages) and messages[-1].get("role") == "assistant"
    except ValueError:
        return False  # no messages at all, which the server will say


# ---------------------------------------------------------------------------------------------- what all writing shares


def _completion(task: Complete, api: UpstreamApi) -> dict[str, Any]:
    body = {"prompt": _prompts(task, api), **_writing(task, api, max_tokens="max_tokens")}
    for name in ("suffix", "echo"):
        value = getattr(task, name)
        if value:
            if not getattr(api, name):
                raise _unknown(name, "this parameter")
            body[name] = value
    if task.top_logprobs is not None:
        body["logprobs"] = task.top_logprobs
    if task.grammar is not None:
        if task.grammar.kind == "json_schema" and not api.schema_in_completions:
            raise _unknown(task.grammar.param or "response_format", "a schema for a completion")
        body |= _shape(task.grammar, api)
    return body


def _prompts(task: Complete, api: UpstreamApi) -> Any:
    if not api.token_prompts and any(not isinstance(prompt, str) for prompt in task.prompts):
        raise _unknown("prompt", "a prompt of tokens")
    if not task.more_prompts:
        return task.prompt
    if not api.several_prompts:
        raise _unknown("prompt", "several prompts in one request")
    return task.prompts


def _writing(task: Chat | Complete, api: UpstreamApi, *, max_tokens: str) -> dict[str, Any]:
    body = _sampling(task.sampling, api)
    if task.max_tokens is not None:
        body[max_tokens] = task.max_tokens
    if task.stop:
        body["stop"] = task.stop
    if task.choices != 1:
        if not api.choices:
            raise _unknown("n", "several replies to one request")
        body["n"] = task.choices
    return body


def _sampling(asked: SamplingParams, api: UpstreamApi) -> dict[str, Any]:
    """The parameters that the task gives, by the server's names."""
    body: dict[str, Any] = {}
    for name in asked.__struct_fields__:
        value = getattr(asked, name)
        if value is None or value in ({}, ()) or (name == "ignore_eos" and not value):
            continue
        if name not in api.sampling:
            raise _unknown(name, "this parameter")
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidRequest(f"{name}: the number is not finite", param=name, summary=f"{name}: not finite")
        body[api.sampling[name]] = value
    if body.get("temperature", 0) < 0:
        body["temperature"] = 0.0  # below 0 means the same as 0
    if asked.logit_bias:
        body[api.sampling["logit_bias"]] = {str(token): bias for token, bias in asked.logit_bias.items()}
    return body


def _shape(grammar: Grammar, api: UpstreamApi) -> dict[str, Any]:
    """What the reply must look like."""
    if grammar.kind == "json_schema":
        if grammar.source == _ANY_OBJECT:
            return {"response_format": {"type": "json_object"}}
        schema = {"name": "reply", "strict": True, "schema": Raw(grammar.source.encode())}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    path = api.grammars.get(grammar.kind)
    if path is None:
        what = "a regular expression" if grammar.kind == "regex" else "a grammar"
        raise _unknown(grammar.param or grammar.kind, f"{what} for the reply")
    *above, field = path.split(".")
    value: Any = {field: grammar.source}
    for name in reversed(above):
        value = {name: value}
    return dict(value)


def _unknown(param: str, what: str) -> RequestRejected:
    text = f"{param}: the server of this model is not known to understand {what}"
    return InvalidRequest(text, param=param, summary=text)
