"""The lines of a batch: what is asked, what the output already has, and what an answer looks like there. Pure.

The lines are those of OpenAI's batch API. A request has `custom_id`, `method`, `url` and `body`. Its outcome has `id`,
`custom_id`, `response` (`status_code`, `request_id`, `body`) and `error`, one of the last two null.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

__all__ = (
    "OUTCOME_ID",
    "URLS",
    "BatchRequest",
    "LineProblem",
    "outcome_line",
    "parse_outcomes",
    "parse_request",
    "require_unique",
)

URLS: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
"""The APIs that a batch may ask."""

OUTCOME_ID: Final = "batch_req_"
"""What the `id` of each outcome begins with."""
_BEGINNING: Final = b'{"id":"' + OUTCOME_ID.encode()
_MARK: Final = b"\xef\xbb\xbf"
"""The mark that some editors write in front of UTF-8."""


class LineProblem(ValueError):
    """A line of a file cannot be what it has to be. The message names the line."""


class BatchRequest(Struct, frozen=True, kw_only=True):
    """One request. `line` is its number in the input, from 1."""

    line: int
    custom_id: str
    url: str
    body: Mapping[str, Any]


class _Line(Struct):
    custom_id: str
    method: str
    url: str
    body: dict[str, Any]


_requests: Final = msgspec.json.Decoder(_Line)


def parse_request(text: bytes, *, line: int, model: str | None) -> BatchRequest:
    """The request in a line of the input. `model` takes the place of the model that the line names.

    Raises `LineProblem`.
    """
    try:
        asked = _requests.decode(text.removeprefix(_MARK) if line == 1 else text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LineProblem(f"line {line}: {error}") from None
    if asked.method != "POST":
        raise LineProblem(f"line {line}: `method` is {asked.method[:20]!r}; a batch asks by POST")
    if asked.url not in URLS:
        raise LineProblem(f"line {line}: `url` is {asked.url[:80]!r}; a batch asks {', '.join(URLS)}")
    if asked.body.get("stream"):
        raise LineProblem(f"line {line}: `body.stream` is set; the answers of a batch come whole")
    body = asked.body if model is None else asked.body | {"model": model}
    return BatchRequest(line=line, custom_id=asked.custom_id, url=asked.url, body=body)


def require_unique(requests: Iterable[BatchRequest]) -> dict[str, BatchRequest]:
    """The requests by `custom_id`. Raises `LineProblem` for an id that two lines have."""
    found: dict[str, BatchRequest] = {}
    for request in requests:
        first = found.setdefault(request.custom_id, request)
        if first is not request:
            raise LineProblem(
                f"line {request.line}: `custom_id` {request.custom_id[:80]!r} is that of line {first.line} too"
            )
    return found


def parse_outcomes(lines: Iterable[bytes], *, known: Iterable[str]) -> tuple[set[str], int]:
    """The ids that an output has outcomes for, and how many bytes of the output are whole lines.

    The last line may be torn, because a job was killed while it wrote. Raises `LineProblem` for any other line that is
    no outcome of one of the `known` requests.
    """
    ids, whole, wanted = set[str](), 0, frozenset(known)
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            if not _is_torn(line):
                raise LineProblem(f"line {number} is no outcome of a batch")
            break
        try:
            outcome = json.loads(line)
            id_, _ = outcome["custom_id"], outcome["response"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise LineProblem(f"line {number} is no outcome of a batch") from None
        if not isinstance(id_, str) or id_ not in wanted:
            raise LineProblem(f"line {number} has an outcome of {str(id_)[:80]!r}, which the input does not ask for")
        ids.add(id_)
        whole += len(line)
    return ids, whole


def _is_torn(line: bytes) -> bool:
    """Whether a line without an end is the beginning of one that `outcome_line` wrote, and so of no other file."""
    return line.startswith(_BEGINNING) or _BEGINNING.startswith(line)


def outcome_line(id_: str, request: BatchRequest, *, status: int, request_id: str | None, body: Any) -> bytes:
    """The line of the output for an answer. `id_` is a name of its own for the outcome."""
    response = {"status_code": status, "request_id": request_id, "body": body}
    outcome = {"id": id_, "custom_id": request.custom_id, "response": response, "error": None}
    return msgspec.json.encode(outcome) + b"\n"
