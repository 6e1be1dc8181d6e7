"""No text of a client or of a model is in the log at INFO or above, whatever a test does: each such text is a canary.

In this process the canaries of a test are the texts of all tasks that it gives to a registry, the texts of all replies,
and all keys that are shown to the service. `tests/conftest.py` looks for them in the records of the test at its end. In
the log of a daemon `tests.system.daemon` looks for the texts and keys that were sent to the daemon.

Texts of fewer than `SHORTEST` characters do not count, because words such as "Hello" are in the log for other reasons.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final
from unittest.mock import patch

from msgspec import Struct
from msgspec.structs import fields

from neuron_lib.registry.leased_reply import LeasedReply
from neuron_lib.types import ReasoningDelta, TextDelta, ToolCall, UnreadArray, UnreadObject
from neuron_service.access.entrance import Request

__all__ = ("SHORTEST", "Canaries", "watched", "written_in")

SHORTEST: Final = 12
_WINDOW: Final = 40
"""Characters of a long text that are looked for. The log may have cut the text."""
_MOST: Final = 300
"""Canaries and records of a test; of more, the latest."""
_NAMES: Final = frozenset({"model_id", "model", "request_id", "principal", "role", "adapter", "type", "harness"})
"""Fields that the log may show."""
_LEVEL: Final = re.compile(r'^\S+ (DEBUG|INFO|WARNING|ERROR|CRITICAL) |"level": "(\w+)"|^<(\d)>')


class Canaries:
    """What must not be in the log, and what is. One for the whole run, cleared for each test, or one for a daemon."""

    def __init__(self) -> None:
        self.texts: dict[str, None] = {}
        self.lines: list[str] = []

    def clear(self) -> None:
        """Forget everything, because another test begins."""
        self.texts.clear()
        self.lines.clear()

    def note(self, value: object) -> None:
        """Take all texts in `value`, which may be nested."""
        for text in _texts(value):
            for start in {0, max(0, len(text) // 2 - _WINDOW)}:
                self.texts.pop(text[start : start + _WINDOW], None)
                self.texts[text[start : start + _WINDOW]] = None
        for old in list(self.texts)[:-_MOST]:
            del self.texts[old]

    def hear(self, line: str) -> None:
        """Take a line of the log at INFO or above."""
        self.lines.append(line)
        del self.lines[:-_MOST]

    def found(self) -> list[tuple[str, str]]:
        """Each canary that is in a line, with the line."""
        return [(text, line) for line in self.lines for text in self.texts if text in line]


def _texts(value: object) -> Iterator[str]:
    match value:
        case str():
            if len(value.strip()) >= SHORTEST:
                yield value
        case bytes():
            yield from _texts(value.decode("utf-8", "replace"))
        case UnreadArray() | UnreadObject():
            with suppress(ValueError, RecursionError):
                yield from _texts(json.loads(value.text))
        case Struct():
            yield from _texts_of({field.name: getattr(value, field.name) for field in fields(value)})
        case Mapping():
            yield from _texts_of(value)
        case Sequence():
            for each in value:
                yield from _texts(each)


def _texts_of(named: Mapping[Any, Any]) -> Iterator[str]:
    for name, each in named.items():
        if name not in _NAMES:
            yield from _texts(each)


@contextmanager
def watched() -> Iterator[Canaries]:
    """What becomes canaries and lines of the log in this process, until the end of the block."""
    canaries = Canaries()
    begin, step, pass_on = LeasedReply.__init__, LeasedReply.__anext__, LeasedReply._pass_on
    handle, read = logging.Logger.handle, Request.of.__func__  # type: ignore[attr-defined] # of a class method

    def noted_begin(self: LeasedReply, task: Any, **options: Any) -> None:
        canaries.note(task)
        begin(self, task, **options)

    async def noted_step(self: LeasedReply) -> Any:
        event = await step(self)
        _note_event(canaries, event)
        return event

    def noted_pass_on(self: LeasedReply, take: Any, event: Any) -> bool:
        _note_event(canaries, event)
        return pass_on(self, take, event)

    def noted_read(cls: type[Request], scope: Any) -> Request:
        request: Request = read(cls, scope)
        canaries.note(request.secrets)
        return request

    def heard(self: logging.Logger, record: logging.LogRecord) -> None:
        if record.levelno >= logging.INFO and record.name.startswith("neuron"):
            told = {name: value for name, value in vars(record).items() if name not in {"args", "msg", "exc_info"}}
            canaries.hear(f"{record.getMessage()} {told} {record.exc_info and record.exc_info[1]}")
        handle(self, record)

    with (
        patch.object(LeasedReply, "__init__", noted_begin),
        patch.object(LeasedReply, "__anext__", noted_step),
        patch.object(LeasedReply, "_pass_on", noted_pass_on),
        patch.object(Request, "of", classmethod(noted_read)),
        patch.object(logging.Logger, "handle", heard),
    ):
        yield canaries


def _note_event(canaries: Canaries, event: object) -> None:
    if isinstance(event, TextDelta | ReasoningDelta | ToolCall):
        canaries.note(event)


def written_in(log: str) -> Iterator[str]:
    """The lines of a daemon's log at INFO or above, whatever its format. A line without a level belongs to a record."""
    is_loud = False
    for line in log.splitlines():
        if match := _LEVEL.search(line[:200]):
            level, in_json, priority = match.groups()
            is_loud = int(priority) < 7 if priority else (level or in_json) != "DEBUG"
        if is_loud:
            yield line
