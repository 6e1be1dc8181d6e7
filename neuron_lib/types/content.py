"""The parts that a message's content may have. Knows only what code other than the template needs: which media they
show.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Struct

from neuron_lib.types.unread import UnreadArray

__all__ = ("MEDIA_OF_PARTS", "Medium", "first_medium")

Medium: TypeAlias = Literal["image", "audio", "video", "file"]

MEDIA_OF_PARTS: Final[Mapping[str, Medium]] = {
    "image": "image",
    "image_file": "image",
    "image_url": "image",
    "input_image": "image",
    "audio": "audio",
    "audio_url": "audio",
    "input_audio": "audio",
    "input_video": "video",
    "video": "video",
    "video_url": "video",
    "file": "file",
    "file_url": "file",
    "input_file": "file",
}
"""The medium that a part shows, by the part's `type`. Clients of OpenAI, vLLM and others use these names.

A request with such a part is refused: a reply to the rest of the message would answer another question. Parts of every
other type have text or can be left out.
"""


class _Part(Struct, gc=False):
    type: str = ""


class _Message(Struct, gc=False):
    content: str | list[_Part] | None = None


_decode: Final = msgspec.json.Decoder(list[_Message]).decode


def first_medium(messages: Iterable[Mapping[str, Any]]) -> Medium | None:
    """The medium of the first part that shows one; None if all parts are text. In an `UnreadArray` only parts are
    decoded.

    Raises `ValueError` for an `UnreadArray` whose text is not an array of messages.
    """
    if isinstance(messages, UnreadArray):
        kinds = (part.type for message in _decode(messages.text) for part in _list(message.content))
    else:
        kinds = (part.get("type") for message in messages for part in _list(message.get("content")))
    return next((MEDIA_OF_PARTS[kind] for kind in kinds if kind in MEDIA_OF_PARTS), None)


def _list(content: Any) -> list[Any]:
    return content if isinstance(content, list) else []
