"""The conversations of every round, the same for each server. Pure.

The texts of a round contain its number and words of its own, so that no server has them cached from an earlier round.
"""

import random
from collections.abc import Iterator
from typing import Any, Final, TypeAlias

from msgspec import Struct

__all__ = (
    "FULL",
    "QUICK",
    "Conversation",
    "Load",
    "SecondTurn",
    "Size",
    "Traffic",
    "request_body",
    "second_turn",
    "traffics",
)

Conversation: TypeAlias = tuple[dict[str, str], ...]
"""Messages in OpenAI's form."""

_TOPICS: Final = ("a fox", "the sea", "a clock", "bread", "a bridge", "snow", "a violin", "the moon")
_WORDS: Final = (
    "river stone winter garden letter market window yellow small open quiet bring carry build north paper table "
    "under story music early heavy light green round field horse glass cloud night morning summer road house after "
    "before water fire earth wind bird tree leaf root seed grain salt sugar copper silver iron gold wool silk rope sail"
)


class Size(Struct, frozen=True, kw_only=True):
    """How much is sent: replies in tokens, prompts in words."""

    streams: tuple[int, ...] = (1, 4, 8, 16)
    reply: int = 96
    words: int = 600
    long_streams: int = 8
    long_reply: int = 32
    shared: int = 24
    distinct: int = 16
    chats: int = 2


FULL: Final = Size()
QUICK: Final = Size(streams=(1, 4), reply=4, words=20, long_streams=2, long_reply=2, shared=2, distinct=2, chats=1)


class Load(Struct, frozen=True, kw_only=True):
    """Conversations in a closed loop: `streams` at a time, each reply exactly `max_tokens` long.

    `distinct_prompts` is the number of prompts that differ in more than the question at their end.
    """

    name: str
    streams: int
    max_tokens: int
    conversations: tuple[Conversation, ...]
    distinct_prompts: int


class SecondTurn(Struct, frozen=True, kw_only=True):
    """Chats that continue: a long first turn, then the reply to it and a question.

    Each of `chats` is a pair: the first turn, and an equally long turn in other words that is new to every server.
    """

    name: str
    max_tokens: int
    chats: tuple[tuple[Conversation, Conversation], ...]


Traffic: TypeAlias = Load | SecondTurn


def traffics(number: int, size: Size) -> Iterator[Traffic]:
    """All traffic of round `number`."""
    for streams in size.streams:
        chats = tuple(_story(number, n) for n in range(streams))
        yield Load(
            name=f"chat-{streams}",
            streams=streams,
            max_tokens=size.reply,
            conversations=chats,
            distinct_prompts=streams,
        )
    system = {"role": "system", "content": _notes(number, "shared", 0, words=size.words)}
    yield Load(
        name="shared-prompt",
        streams=size.long_streams,
        max_tokens=size.long_reply,
        conversations=tuple((system, *_question(n)) for n in range(size.shared)),
        distinct_prompts=1,
    )
    yield Load(
        name="distinct-prompts",
        streams=size.long_streams,
        max_tokens=size.long_reply,
        conversations=tuple(_long(number, "distinct", n, words=size.words) for n in range(size.distinct)),
        distinct_prompts=size.distinct,
    )
    yield SecondTurn(
        name="second-turn",
        max_tokens=size.long_reply,
        chats=tuple(
            (_long(number, "first", n, words=size.words), _long(number, "fresh", n, words=size.words))
            for n in range(size.chats)
        ),
    )


def second_turn(first: Conversation, reply: str) -> Conversation:
    """The chat continued after `reply`."""
    return (*first, {"role": "assistant", "content": reply}, *_question(0))


def request_body(conversation: Conversation, *, max_tokens: int, sampled: bool) -> dict[str, Any]:
    """A body that every server reads alike: the reply is streamed, and its tokens are counted at the end.

    It is greedy, or `sampled` with the options that clients usually send.
    """
    options = {"temperature": 0.8, "top_k": 40, "top_p": 0.95} if sampled else {"temperature": 0}
    return {
        "messages": conversation,
        "max_tokens": max_tokens,
        **options,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _story(number: int, n: int) -> Conversation:
    topic = _TOPICS[n % len(_TOPICS)]
    return ({"role": "user", "content": f"Write a long story about {topic}, part {n + 1} of book {number}."},)


def _question(n: int) -> Conversation:
    return ({"role": "user", "content": f"What do these notes say about {_TOPICS[n % len(_TOPICS)]}, case {n + 1}?"},)


def _long(number: int, use: str, n: int, *, words: int) -> Conversation:
    return ({"role": "user", "content": _notes(number, use, n, words=words)},)


def _notes(number: int, use: str, n: int, *, words: int) -> str:
    chosen = random.Random(f"{number} {use} {n}").choices(_WORDS.split(), k=words)  # noqa: S311 - words to read, no secret
    return f"{number}.{n} {use} notes: {' '.join(chosen)}."
