"""What a model can be asked to do, free of any wire format: a `Task` is one of the kinds in this module.

Every task has the `model_id` of its model, the `principal` who asks, and a `request_id`, which is any text that finds
the request again: it is in the lines of the log about the request, in those of the engine too, and in its `EndedReply`.
Lines show 128 characters of it. "" is no id. `hops` is how many hosts have passed the request on before it came here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from msgspec import Struct

from neuron_lib.types.chat import Grammar, Principal, ToolChoice
from neuron_lib.types.sampling import SamplingParams

__all__ = ("Chat", "ChatRequest", "Complete", "Detokenize", "Embed", "Rerank", "Task", "Tokenize", "is_whole")


class _Written(Struct, frozen=True, kw_only=True):
    """What all tasks have that write a text; `Chat` says what the fields mean."""

    model_id: str
    sampling: SamplingParams = SamplingParams()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    choices: int = 1
    top_logprobs: int | None = None
    grammar: Grammar | None = None
    principal: Principal | None = None
    request_id: str = ""
    hops: int = 0
    whole: bool = False
    adapter: str = ""
    keep_alive_s: float | None = None


class Chat(_Written, frozen=True, kw_only=True):
    """Write the next message of a chat.

    `messages` and `tools` go to the model's chat template. Every message has a string `role`. Its `content` is a
    string, None, or a list of parts, which are objects with a string `type`. Both may be an `UnreadArray`, and
    `template_kwargs`, which are merged into the template's context, an `UnreadObject`: JSON text that the engine
    decodes. With `include_thinking` the reasoning is part of the text, inside its literal markers. After
    `reasoning_budget` tokens of reasoning its closing marker is forced; None sets no bound. With
    `continue_final_message` the reply goes on with the last message, which must be the assistant's. None means: if the
    last message is the assistant's.

    `max_tokens` bounds each reply; None takes the default of the service. `choices` replies are made of one prompt,
    each with a seed of its own. `top_logprobs` asks for the log-probability of every token and of that many likeliest
    alternatives. With `whole` nothing is given out before the end, so that until then another engine can make the
    reply again. `adapter` names the LoRA adapter to write with, "" none. `keep_alive_s` is how long the model may be
    idle after this request before it is unloaded, infinite for ever; None leaves that to the rules of the host. The
    last request counts. A host that does not make room refuses any other value than None.
    """

    messages: Sequence[dict[str, Any]]
    tools: Sequence[dict[str, Any]] = ()
    template_kwargs: Mapping[str, Any] = {}
    include_thinking: bool = False
    tool_choice: ToolChoice = ToolChoice()
    reasoning_budget: int | None = None
    continue_final_message: bool | None = None


ChatRequest: TypeAlias = Chat
"""The older name of `Chat`."""


class Complete(_Written, frozen=True, kw_only=True):
    """Go on with a text, or with several. `prompt` is a string, or token ids of the model's vocabulary; no template
    changes it.

    Each of the `more_prompts` is continued too, and each gets as many `choices` as the first: choice 0 is the
    first of the first prompt, and those of one prompt are next to each other. More replies than there are seats take
    turns. With a `suffix` a reply is what belongs between the prompt, which is a string and may be empty, and the
    suffix. Only models can do so that have tokens for this. With `echo` each reply begins with the text of its prompt,
    and tells no log-probabilities.

    The other fields are those of `Chat`.
    """

    prompt: str | tuple[int, ...]
    more_prompts: tuple[str | tuple[int, ...], ...] = ()
    suffix: str | None = None
    echo: bool = False

    @property
    def prompts(self) -> tuple[str | tuple[int, ...], ...]:
        """All prompts."""
        return self.prompt, *self.more_prompts


class Embed(Struct, frozen=True, kw_only=True):
    """Make a vector of length 1 of each of the `inputs`: a string, or token ids of the model's vocabulary.

    `dimensions` cuts each vector to its first numbers and scales it to length 1 again; None leaves it whole. Models
    that were trained for this keep most of the meaning in the first numbers.
    """

    model_id: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None
    principal: Principal | None = None
    request_id: str = ""
    hops: int = 0
    adapter: str = ""
    keep_alive_s: float | None = None


class Rerank(Struct, frozen=True, kw_only=True):
    """Say of each of the `documents` how well it answers the `query`."""

    model_id: str
    query: str
    documents: tuple[str, ...]
    principal: Principal | None = None
    request_id: str = ""
    hops: int = 0
    adapter: str = ""


class Tokenize(Struct, frozen=True, kw_only=True):
    """Say the tokens of a text, or those of the prompt that the chat template makes of a `Chat`. Nothing is computed.

    A text becomes the same tokens as the prompt of a `Complete`. Without `add_special` the tokenizer adds no tokens
    around the text, such as BOS. Without `parse_special` the spelling of a special token is ordinary text. A `Chat`
    becomes the same tokens as the prompt of its reply, and neither field has a meaning for it.

    With `wants_text` the answer has the text that was read, and with `wants_pieces` the bytes of each token. A text of
    more than 2 MiB or 262,144 tokens is refused with `InvalidRequest`, and with `wants_pieces` one of more than 32,768.
    """

    model_id: str
    prompt: str | Chat
    add_special: bool = True
    parse_special: bool = True
    wants_text: bool = False
    wants_pieces: bool = False
    principal: Principal | None = None
    request_id: str = ""
    hops: int = 0


class Detokenize(Struct, frozen=True, kw_only=True):
    """Say the text of `tokens`, which are token ids of the model's vocabulary. Special tokens are spelled."""

    model_id: str
    tokens: tuple[int, ...]
    principal: Principal | None = None
    request_id: str = ""
    hops: int = 0


Task: TypeAlias = Chat | Complete | Embed | Rerank | Tokenize | Detokenize


def is_whole(task: Task) -> bool:
    """Whether nothing of the answer is given out before its end, because the task says so, or writes no text."""
    return not isinstance(task, Chat | Complete) or task.whole
