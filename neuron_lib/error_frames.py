"""One form in which every error of this library crosses the border of a process. Pure.

Put an `ErrorFrame` into a frame of your own protocol. `to_frame` makes the frame from an error, and `from_frame` makes
the same error from the frame in the other process. Causes and tracebacks do not travel.
"""

import math
from typing import Any, ClassVar, Final, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from neuron_lib import errors
from neuron_lib.errors import NeuronError
from neuron_lib.shown import LONGEST_MESSAGE, bounded, clip

__all__ = ("ErrorFrame", "from_frame", "to_frame")

_CLASSES: Final = {
    value.code: value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, NeuronError)
}
"""The classes of `neuron_lib.errors` by their codes. No two have the same."""
_LONGEST: Final = 2 * LONGEST_MESSAGE
"""The message of an error is shorter: it was cut where the error was made."""
_INT_BITS: Final = 63


class ErrorFrame(Struct, frozen=True, kw_only=True):
    """An error as plain values, for JSON and for MessagePack alike.

    `code` is the code of the error's class, or of the nearest base class in `neuron_lib.errors`. `fields` are those of
    the error. `attributes` has what the class declares beside them: `param`, `retry_after_s`, `kind` and so on.
    """

    code: str
    message: str
    fields: dict[str, Any] = {}
    attributes: dict[str, Any] = {}


def to_frame(error: NeuronError) -> ErrorFrame:
    """The error as a frame that can always be encoded.

    What a frame cannot hold becomes text: half a surrogate pair, an integer of more than 64 bits, a number that is not
    finite. A tuple becomes a list.
    """
    known = next(base for base in type(error).__mro__ if issubclass(base, NeuronError) and base in _CLASSES.values())
    return ErrorFrame(
        code=known.code,
        message=_encodable(error.message),
        fields={str(name): _plain(value) for name, value in error.fields.items()},
        attributes={name: _plain(vars(error)[name]) for name in _attributes(known) if name in vars(error)},
    )


def from_frame(frame: ErrorFrame, *, unknown: type[NeuronError]) -> NeuronError:
    """The error that the other process met.

    `unknown` is the class for a frame whose code this version of the library does not know, or whose attributes do not
    fit its code. The class takes a message alone, and says what the caller should do then; the message says why.
    """
    message = frame.message if len(frame.message) <= _LONGEST else clip(frame.message, LONGEST_MESSAGE)
    class_ = _CLASSES.get(frame.code)
    if class_ is None:
        return _as_unknown(frame, unknown(f"{message} (an error of an unknown kind: {clip(frame.code)!r})"))
    try:
        attributes = {
            name: msgspec.convert(frame.attributes[name], hint)
            for name, hint in _attributes(class_).items()
            if name in frame.attributes or not hasattr(class_, name)
        }
    except (KeyError, msgspec.ValidationError):
        return _as_unknown(frame, unknown(f"{message} (an incomplete error of the kind {frame.code!r})"))
    # The `__init__` of a class makes the message of its arguments, and here the message is made already.
    error: NeuronError = class_.__new__(class_, message)
    vars(error).update(attributes, message=message, fields=frame.fields)
    return error


def _as_unknown(frame: ErrorFrame, error: NeuronError) -> NeuronError:
    error.fields = frame.fields
    return error


def _attributes(class_: type[NeuronError]) -> dict[str, Any]:
    """The types of the attributes that an error of the class has beside its message and its fields, by name."""
    return {
        name: hint
        for name, hint in get_type_hints(class_).items()
        if name not in {"message", "fields"} and get_origin(hint) is not ClassVar
    }


def _plain(value: Any) -> Any:
    plain: Any
    match value:
        case None | bool():
            plain = value
        case int():
            plain = value if value.bit_length() <= _INT_BITS else str(bounded(value))
        case float():
            plain = value if math.isfinite(value) else str(value)
        case dict():
            plain = {_encodable(str(key)): _plain(item) for key, item in value.items()}
        case list() | tuple():
            plain = [_plain(item) for item in value]
        case _:
            plain = _encodable(str(value))
    return plain


def _encodable(text: str) -> str:
    """`text` as a plain string, with each half of a surrogate pair spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()
