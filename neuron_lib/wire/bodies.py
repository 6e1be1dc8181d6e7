"""Decodes request bodies. Whatever a client sends, the outcome is a value or one of three errors, never another one."""

import re
from typing import Any, Final, TypeVar

import msgspec

from neuron_lib.errors import InvalidRequest
from neuron_lib.shown import clip

__all__ = ("MAX_NESTING", "MalformedJson", "UnsupportedMediaType", "check_free_form", "decode_body", "invalid_shape")

T = TypeVar("T")

MAX_NESTING: Final = 100
"""How deep the free-form parts of a body may be nested."""

_SMALLEST_INT: Final = -(2**63)
_LARGEST_INT: Final = 2**64 - 1

# msgspec ends its messages with the place, as a path from the root `$`.
_PLACED: Final = re.compile(r"(?P<problem>.*?)(?: - at `\$\.?(?P<place>[^`]*)`)?", re.DOTALL)
_CHARSET: Final = re.compile(r'(?:^|;)\s*charset\s*=\s*"?([^";\s]*)')
_UTF8: Final = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
"""Charsets of which every text is UTF-8."""
_MISSING: Final = re.compile(r"Object missing required field `(?P<field>[^`]*)`")


class UnsupportedMediaType(InvalidRequest):
    """The body does not claim to be JSON in UTF-8."""

    code = "unsupported_media_type"
    quotes_request = False


class MalformedJson(InvalidRequest):
    """The body is not JSON, not UTF-8, or too deep to read."""

    code = "malformed_json"
    quotes_request = False


def decode_body(decoder: msgspec.json.Decoder[T], body: bytes, *, content_type: str | None) -> T:
    """The body as the decoder's type (wire contract §1.0).

    Raises `UnsupportedMediaType`, `MalformedJson`, or `InvalidRequest` for JSON of another shape, whose `param` is
    the path of the value to blame.
    """
    if not _is_json(content_type):
        found = "there is none" if content_type is None else f"it is {clip(content_type)!r}"
        raise UnsupportedMediaType(f"the content type must be application/json, in UTF-8; {found}")
    try:
        # msgspec steps over unknown fields without looking at their bytes.
        body.decode()
        return decoder.decode(body)
    except msgspec.ValidationError as exc:
        raise invalid_shape(exc) from None  # it says all that msgspec said
    except UnicodeDecodeError as exc:
        raise MalformedJson(f"the body is not UTF-8: {exc.reason} at byte {exc.start}") from None
    except msgspec.DecodeError as exc:
        raise MalformedJson(f"the body is not JSON: {exc}") from None
    except RecursionError:
        raise MalformedJson("the body is nested too deeply") from None


def invalid_shape(error: msgspec.ValidationError, *, within: str = "") -> InvalidRequest:
    """What msgspec found, as our error; `within` is the path of the value it looked at."""
    match = _PLACED.fullmatch(str(error))
    assert match is not None  # every part of the pattern is optional
    problem, place = match["problem"], within + (match["place"] or "")
    missing = _MISSING.fullmatch(problem)
    if missing is not None:
        place = f"{place}.{missing['field']}" if place else missing["field"]
        problem = "this field is required"
    # What msgspec quotes of the value begins at its first quotation mark.
    return InvalidRequest(
        f"{place}: {problem}" if place else problem, param=place or None, summary=problem.partition(" '")[0]
    )


def check_free_form(value: dict[str, Any] | list[Any], *, param: str) -> None:
    """Refuse a decoded object or array that the rest of the library could not carry.

    Raises `MalformedJson` for nesting beyond `MAX_NESTING`, `InvalidRequest` for an integer beyond 64 bits.
    """
    level: list[dict[str, Any] | list[Any]] = [value]
    for _ in range(MAX_NESTING):
        deeper: list[dict[str, Any] | list[Any]] = []
        for container in level:
            for child in container.values() if isinstance(container, dict) else container:
                if isinstance(child, dict | list):
                    deeper.append(child)
                elif isinstance(child, int) and not _SMALLEST_INT <= child <= _LARGEST_INT:
                    raise InvalidRequest(f"{param}: an integer does not fit in 64 bits", param=param)
        if not deeper:
            return
        level = deeper
    raise MalformedJson(f"{param}: nested deeper than {MAX_NESTING} levels", param=param)


def _is_json(content_type: str | None) -> bool:
    media_type, _, parameters = (content_type or "").lower().partition(";")
    media_type = media_type.strip()
    is_json = media_type == "application/json" or (
        media_type.startswith("application/") and media_type.endswith("+json")
    )
    return is_json and _UTF8.issuperset(_CHARSET.findall(parameters))
