"""What an engine is told of a task, and what no engine needs to be asked about. Pure."""

from typing import Any, Final, assert_never

from neuron_lib.admission import name_of
from neuron_lib.config import SamplingConfig
from neuron_lib.engine.protocol import (
    ChatTask,
    CompleteTask,
    DetokenizeTask,
    EmbedTask,
    Limits,
    ModelFacts,
    RequestClass,
    RerankTask,
    Submit,
    TaskFrame,
    TokenizeTask,
)
from neuron_lib.errors import InvalidRequest, UnsupportedCapability
from neuron_lib.llamacpp.limits import request_limit
from neuron_lib.llamacpp.sampling import resolve_sampling
from neuron_lib.modality import require_able
from neuron_lib.shown import one_word
from neuron_lib.types import (
    Chat,
    Complete,
    Detokenize,
    Embed,
    Rerank,
    SamplingParams,
    Task,
    Tokenize,
    UnreadArray,
    UnreadObject,
    first_medium,
)
from neuron_lib.vectors import check_dimensions

__all__ = ("refuse_if_impossible", "submission")

_MOST_NUMBERS: Final = 2 << 20
"""Numbers of all vectors of a request together. As JSON they take 45 MB."""
_MOST_QUERY_CHARS: Final = 4 << 20
"""Characters of a query times the documents that it is read with. To tokenize so many takes two seconds."""
_MOST_TOP_LOGPROBS: Final = 20
"""OpenAI's bound."""


def submission(
    number: int,
    task: Task,
    *,
    facts: ModelFacts,
    defaults: SamplingConfig,
    max_prompt_tokens: int,
    readable_tokens: int | None = None,
    cache_key: str,
    seed: int,
    kv_reply_tokens: int = 0,
    most_seats: int = 0,
) -> Submit:
    """The command to do `task` under this number. `defaults` and `seed` hold where the request says nothing.

    The cells for `kv_reply_tokens` tokens of a reply are reserved, or for fewer if it cannot have so many. `most_seats`
    is how many the callers of its kind may hold.
    """
    asked = task.sampling if isinstance(task, Chat | Complete) else SamplingParams()
    most_tokens = task.max_tokens if isinstance(task, Chat | Complete) else None
    limit = request_limit(
        facts, max_prompt_tokens=max_prompt_tokens, max_tokens=defaults.max_tokens, readable=readable_tokens
    )
    reply_tokens = defaults.max_tokens if most_tokens is None else most_tokens
    return Submit(
        request=number,
        request_id=one_word(task.request_id),
        task=_frame(task, facts),
        sampling=resolve_sampling(asked, recommended=facts.recommended, defaults=defaults, fresh_seed=seed),
        limits=Limits(
            prompt_tokens=0 if limit is None or limit.input is None else limit.input,
            reply_tokens=reply_tokens,
            reserved_tokens=min(reply_tokens, kv_reply_tokens),
        ),
        class_=RequestClass(
            principal=name_of(task.principal),
            most_seats=most_seats,
            cache_key=cache_key,
            adapter=_adapter(task),
        ),
    )


def _frame(task: Task, facts: ModelFacts) -> TaskFrame:
    """The task as it travels."""
    match task:
        case Chat():
            return _chat_frame(task, facts)
        case Complete():
            return CompleteTask(
                prompt=task.prompt,
                more_prompts=task.more_prompts,
                suffix=task.suffix,
                echo=task.echo,
                **_writing(task, facts),
            )
        case Embed():
            return EmbedTask(inputs=task.inputs)
        case Rerank():
            return RerankTask(query=task.query, documents=task.documents)
        case Tokenize():
            return TokenizeTask(
                prompt=task.prompt if isinstance(task.prompt, str) else _chat_frame(task.prompt, facts),
                add_special=task.add_special,
                parse_special=task.parse_special,
                wants_text=task.wants_text,
                wants_pieces=task.wants_pieces,
            )
        case Detokenize():
            return DetokenizeTask(tokens=task.tokens)
        case _:
            assert_never(task)


def _writing(task: Chat | Complete, facts: ModelFacts) -> dict[str, Any]:
    return {
        "choices": task.choices,
        "stop": (*task.stop, *facts.stop),
        "top_logprobs": task.top_logprobs,
        "grammar": task.grammar,
    }


def _chat_frame(task: Chat, facts: ModelFacts) -> ChatTask:
    """The chat as it travels. What came as JSON text is passed on as such."""
    told: dict[str, Any] = {
        "messages": task.messages,
        "tools": () if task.tool_choice.mode == "none" else task.tools,
        "template_kwargs": task.template_kwargs,
    }
    unread = {name: part.text for name, part in told.items() if isinstance(part, UnreadArray | UnreadObject)}
    read = {name: part for name, part in told.items() if name not in unread}
    return ChatTask(
        unread=unread,
        tool_choice=task.tool_choice,
        reasoning_budget=task.reasoning_budget,
        continue_final_message=task.continue_final_message,
        **read,
        **_writing(task, facts),
    )


def _adapter(task: Task) -> str:
    """The adapter that the task names, "" if none. The tokens of a text are the same with every adapter."""
    return "" if isinstance(task, Tokenize | Detokenize) else task.adapter


def refuse_if_impossible(task: Task, *, model_id: str, facts: ModelFacts) -> None:
    """Raise the `RequestRejected` for what no engine needs to be asked about."""
    require_able(task, model_id, facts.capabilities)
    if adapter := _adapter(task):
        raise UnsupportedCapability(
            f"model {model_id!r} has no adapter {adapter!r}: this host loads none",
            code="adapter_unsupported",
            model_id=model_id,
        )
    chat = task.prompt if isinstance(task, Tokenize) else task
    if isinstance(chat, Chat):
        _refuse_media(chat, model_id)
    if isinstance(task, Embed):
        _refuse_impossible_vectors(task, facts)
    if isinstance(task, Rerank):
        _refuse_impossible_ranking(task)
    if isinstance(task, Chat | Complete):
        _refuse_impossible_text(task, facts)


def _refuse_impossible_text(task: Chat | Complete, facts: ModelFacts) -> None:
    if "" in task.stop:
        raise InvalidRequest("a stop string must not be empty", param="stop")
    if not 0 <= (task.top_logprobs or 0) <= _MOST_TOP_LOGPROBS:
        text = f"top_logprobs: {task.top_logprobs} likely tokens, where 0 to {_MOST_TOP_LOGPROBS} are possible"
        raise InvalidRequest(text, param="top_logprobs")
    if isinstance(task, Complete) and task.echo and task.top_logprobs is not None:
        text = "echo: the tokens of a prompt have no log-probabilities here; leave out either echo or logprobs"
        raise InvalidRequest(text, param="echo")
    n_vocab = facts.n_vocab
    for token in (*task.sampling.logit_bias, *task.sampling.stop_token_ids):
        if n_vocab and not 0 <= token < n_vocab:
            place = f"logit_bias.{token}" if token in task.sampling.logit_bias else "stop_token_ids"
            raise InvalidRequest(
                f"{place}: there is no token {token}, the model has tokens 0 to {n_vocab - 1}", param=place
            )


def _refuse_media(chat: Chat, model_id: str) -> None:
    medium = first_medium(chat.messages)
    if medium is not None:
        raise UnsupportedCapability(
            f"model {model_id!r} reads text only, and a message has a part that is no text but {medium}",
            code="vision_unsupported" if medium == "image" else f"{medium}_unsupported",
            model_id=model_id,
            suggestion="send text content, or choose a model with the capability",
        )


def _refuse_impossible_vectors(task: Embed, facts: ModelFacts) -> None:
    if not task.inputs:
        raise InvalidRequest("input: there is nothing to make a vector of", param="input")
    check_dimensions(task.dimensions, width=facts.vector_width)
    numbers = len(task.inputs) * facts.vector_width
    if numbers > _MOST_NUMBERS:
        text = (
            f"input: {len(task.inputs)} vectors of {facts.vector_width} numbers each are more than {_MOST_NUMBERS} "
            "numbers; send fewer texts at once"
        )
        raise InvalidRequest(text, param="input", summary=text)


def _refuse_impossible_ranking(task: Rerank) -> None:
    if not task.query:
        raise InvalidRequest("query: there is no question to rank by", param="query")
    if not task.documents:
        raise InvalidRequest("documents: there is nothing to rank", param="documents")
    read = len(task.query) * len(task.documents)
    if read > _MOST_QUERY_CHARS:
        text = (
            f"query: it is read once for each document, {read} characters in all, where {_MOST_QUERY_CHARS} are "
            "possible; shorten it, or rank fewer documents at once"
        )
        raise InvalidRequest(text, param="query", summary=text)
