"""Decodes request bodies. For every input the result is a value or one of three errors."""

import re
from typing import Any, Final, TypeVar

import msgspec

from neuron_lib.errors import InvalidRequest
from neuron_lib.shown import clip
from neuron_lib.wire.json_bounds import MalformedJson, check_values, refusal

__all__ = (
    "ANY_OBJECT",
    "ANY_OBJECTS",
    "NOTHING",
    "AnyObject",
    "MalformedJson",
    "UnsupportedMediaType",
    "decode_body",
    "decode_part",
    "is_given",
    "read_as",
)

T = TypeVar("T")

NOTHING: Final = msgspec.Raw(b"null")
"""The default of a field that is left as text."""


class AnyObject(msgspec.Struct, gc=False):
    """An object whose keys are not looked at."""


ANY_OBJECT: Final = msgspec.json.Decoder(AnyObject)
ANY_OBJECTS: Final = msgspec.json.Decoder(list[AnyObject])

# msgspec ends its messages with the place, as a path from the root `$`.
_PLACED: Final = re.compile(r"(?P<problem>.*?)(?: - at `\$\.?(?P<place>[^`]*)`)?", re.DOTALL)
_CHARSET: Final = re.compile(r'(?:^|;)\s*charset\s*=\s*"?([^";\s]*)')
_UTF8: Final = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
"""Charsets whose texts are always UTF-8 too."""
_MISSING: Final = re.compile(r"Object missing required field `(?P<field>[^`]*)`")
_UNKNOWN_VALUE: Final = "Invalid enum value "


class UnsupportedMediaType(InvalidRequest):
    """The content type does not say JSON, or names another charset than UTF-8."""

    code = "unsupported_media_type"
    quotes_request = False


def decode_body(decoder: msgspec.json.Decoder[T], body: bytes, *, content_type: str | None) -> T:
    """The body as the decoder's type (`docs/reference/wire-contract.md#bodies-that-cannot-be-read`).

    Raises `UnsupportedMediaType`, `MalformedJson`, or `InvalidRequest` for JSON of another shape. The `param` of the
    latter is the path of the wrong value. Blocks for up to 30 ms with a large body.
    """
    if not _is_json(content_type):
        found = "there is none" if content_type is None else f"it is {clip(content_type)!r}"
        raise UnsupportedMediaType(f"the content type must be application/json, in UTF-8; {found}")
    check_values(body)
    try:
        body.decode()  # msgspec skips unknown fields without checking their bytes
    except UnicodeDecodeError as exc:
        raise MalformedJson(f"the body is not UTF-8: {exc.reason} at byte {exc.start}") from None
    return _decode(decoder, body, what="the body", within="")


def decode_part(decoder: msgspec.json.Decoder[T], part: msgspec.Raw | bytes, *, param: str) -> T:
    """A part of a body that was left as text, as the decoder's type. `param` is the path of the part.

    Raises `MalformedJson` or `InvalidRequest`.
    """
    return _decode(decoder, part, what=param, within=param)


def is_given(part: msgspec.Raw) -> bool:
    """Whether a field that was left as text is there; null means that it is not."""
    return bytes(part) != b"null"


def read_as(shape: Any) -> msgspec.Meta:
    """The annotation of a field that is left as text: the type that reads the text later.

    It has no effect on decoding. The description of the service shows the type (`neuron_lib.wire.dialect.Shapes`).
    """
    return msgspec.Meta(extra={"read_as": shape})


def _decode(decoder: msgspec.json.Decoder[T], text: msgspec.Raw | bytes, *, what: str, within: str) -> T:
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as exc:
        raise _invalid_shape(exc, within=within) from None  # the new error repeats the whole message of msgspec
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise MalformedJson(f"{what} is not JSON: {exc}", param=within or None) from None
    except RecursionError:
        raise MalformedJson(f"{what} is nested too deeply", param=within or None) from None


def _invalid_shape(error: msgspec.ValidationError, *, within: str) -> InvalidRequest:
    """An error of msgspec as an error of this library. `within` is the path of the value that was decoded."""
    match = _PLACED.fullmatch(str(error))
    assert match is not None  # every part of the pattern is optional
    problem, place = match["problem"], _joined(within, match["place"] or "")
    missing = _MISSING.fullmatch(problem)
    if missing is not None:
        place, problem = _joined(place, missing["field"]), "this field is required"
    # From the first quotation mark on msgspec quotes the client's value, which must not be in the log.
    summary, quotes, quoted = problem.partition(" '")
    if problem.startswith(_UNKNOWN_VALUE):
        summary, quotes, quoted = "this value is not supported", "; it is ", problem.removeprefix(_UNKNOWN_VALUE)
    if place:
        return refusal(place, summary, quoting=quotes + quoted)
    return InvalidRequest(summary + quotes + quoted, summary=summary)


def _joined(path: str, rest: str) -> str:
    return f"{path}.{rest}" if path and rest and not rest.startswith("[") else path + rest


def _is_json(content_type: str | None) -> bool:
    media_type, _, parameters = (content_type or "").lower().partition(";")
    media_type = media_type.strip()
    is_json = media_type == "application/json" or (
        media_type.startswith("application/") and media_type.endswith("+json")
    )
    return is_json and _UTF8.issuperset(_CHARSET.findall(parameters))
