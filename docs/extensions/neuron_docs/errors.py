"""The error reference: each error of a request and of a load, with its code and the status that each API answers."""

from collections.abc import Iterator
from typing import Any, Final

from neuron_docs.markdown import prose, table
from neuron_lib.errors import (
    ConfigError,
    LoadFailed,
    NeuronError,
    Overloaded,
    OverloadReason,
    RequestRejected,
    SourceUnavailable,
)
from neuron_lib.wire.anthropic_errors import anthropic_error
from neuron_lib.wire.http_errors import AccessRefused, HttpRefused
from neuron_lib.wire.management_errors import load_error
from neuron_lib.wire.openai_errors import openai_error
from neuron_service import dialects

__all__ = ("loads", "requests", "subclasses")

_FILLED_IN: Final[dict[str, Any]] = {
    "message": "",
    "param": None,
    "allow": "GET",
    "scope": "inference",
    "fields": {"prompt_len": 2, "max": 1},
    "kind": "invalid_gguf",
    "reason": None,
    "retry_after_s": None,
}
"""What the answers quote of an error, for errors that did not happen."""

_BASES: Final = (RequestRejected, HttpRefused, AccessRefused)
"""Classes that are only caught and never raised."""


def subclasses(base: type[NeuronError]) -> Iterator[type[NeuronError]]:
    """`base` and all classes below it, in the order of their definition. Private ones are left out."""
    if not base.__name__.startswith("_"):
        yield base
    for each in base.__subclasses__():
        yield from subclasses(each)


def requests() -> str:
    """The table of the errors that refuse or end a request."""
    for dialect in dialects.DIALECTS:
        dialect.load()  # defines the errors that only this API has
    found = [each for each in subclasses(RequestRejected) if each not in _BASES]
    others = [
        each for each in subclasses(NeuronError) if not issubclass(each, RequestRejected | LoadFailed | ConfigError)
    ]
    rows = [row for error_class in found + others[1:] for row in _request_rows(error_class)]
    return table(("code", "class", "status", "at Anthropic's paths", "what has happened"), rows)


def loads() -> str:
    """The table of the errors of `POST /models/load`."""
    rows = []
    for error_class in [*subclasses(LoadFailed), SourceUnavailable]:
        error = _example(error_class)
        status = str(load_error(error).status)
        rows.append((f"`{error.code}`", f"`{error_class.__name__}`", status, _meaning(error_class)))
    return table(("code", "class", "status", "what has happened"), rows)


def _request_rows(error_class: type[NeuronError]) -> Iterator[tuple[str, ...]]:
    """A row, and one more for each reason with another answer."""
    seen: set[tuple[int, str, int]] = set()
    for reason in OverloadReason if error_class is Overloaded else (None,):
        error = _example(error_class, reason=reason)
        usual, other = openai_error(error), anthropic_error(error)
        answer = (usual.status, usual.type, other.status)
        if answer in seen:
            continue
        seen.add(answer)
        code = "null" if usual.code is None else usual.code
        meaning = _meaning(error_class)
        if len(seen) > 1:
            meaning = f"the same, where the reason is `{reason}`"
        yield f"`{code}`", f"`{error_class.__name__}`", str(usual.status), str(other.status), meaning


def _example(error_class: type[NeuronError], **attributes: Any) -> NeuronError:
    """An error of the class. Constructors want the numbers of a real case, so no constructor is called."""
    error = error_class.__new__(error_class)
    for name, value in (_FILLED_IN | attributes).items():
        setattr(error, name, value)
    return error


def _meaning(error_class: type[NeuronError]) -> str:
    """The first paragraph of the docstring."""
    return prose(error_class.__doc__).split("\n\n")[0]
