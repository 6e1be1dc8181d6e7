"""The fields of a body that only the chat template reads. They stay text, because they may have any form. Pure."""

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from neuron_lib.types import UnreadObject
from neuron_lib.wire.bodies import ANY_OBJECT, ANY_OBJECTS, NOTHING, decode_part, is_given
from neuron_lib.wire.json_bounds import check_nesting_and_numbers

__all__ = ("template_kwargs",)

T = TypeVar("T")


def template_kwargs(
    words: Mapping[str, object], chat_template_kwargs: msgspec.Raw, *, documents: msgspec.Raw = NOTHING
) -> UnreadObject:
    """The arguments of the template beside messages and tools, as one JSON object.

    `words` are what other fields of the body mean for the template, at least one. A name may be in the object twice,
    for example once of `words` and once of `chat_template_kwargs`. The decoder takes the last one.

    Raises `MalformedJson` or `InvalidRequest`, whose `param` is the field.
    """
    told = [msgspec.json.encode(words)[1:-1]]
    if is_given(documents):
        told.append(b'"documents":' + _checked(ANY_OBJECTS, documents, "documents"))
    if is_given(chat_template_kwargs):
        inner = _checked(ANY_OBJECT, chat_template_kwargs, "chat_template_kwargs")[1:-1]
        told += [inner] if inner.strip() else []
    return UnreadObject(b"{" + b",".join(told) + b"}")


def _checked(decoder: msgspec.json.Decoder[T], part: msgspec.Raw, param: str) -> bytes:
    """The text of a part of the decoder's type."""
    decode_part(decoder, part, param=param)
    text = bytes(part)
    check_nesting_and_numbers(text, param=param)
    return text
