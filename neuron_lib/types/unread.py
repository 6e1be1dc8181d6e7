"""JSON of a request, kept as text. Only the model's template needs the values, so only the engine decodes them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final, overload

import msgspec

__all__ = ("UnreadArray", "UnreadObject")

_EMPTY_ARRAY: Final = re.compile(rb"\s*\[\s*\]")

_decode_array: Final = msgspec.json.Decoder(tuple[dict[str, Any], ...]).decode
_decode_object: Final = msgspec.json.Decoder(dict[str, Any]).decode


class UnreadArray(Sequence[dict[str, Any]]):
    """A JSON array of objects as text. It is decoded once, at the first access; `text` can be passed on without that.

    It equals any sequence of the same objects. An access raises `ValueError` if the text is not an array of objects.
    """

    __slots__ = ("_items", "text")

    def __init__(self, text: bytes) -> None:
        self.text: Final = text
        self._items: tuple[dict[str, Any], ...] | None = None

    def __repr__(self) -> str:
        return f"<UnreadArray of {len(self.text)} bytes>"

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | Sequence[dict[str, Any]]:
        return self._read()[index]

    def __len__(self) -> int:
        return len(self._read())

    def __bool__(self) -> bool:
        """Whether the array has an element. Does not decode the text."""
        return _EMPTY_ARRAY.match(self.text) is None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._read())

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, Sequence) else NotImplemented

    __hash__: ClassVar[None] = None  # type: ignore[assignment] # its objects have none either

    def _read(self) -> tuple[dict[str, Any], ...]:
        if self._items is None:
            self._items = _decode_array(self.text)
        return self._items


class UnreadObject(Mapping[str, Any]):
    """A JSON object as text. It is decoded once, at the first access, and equals any mapping with the same content.

    An access raises `ValueError` if the text is not a JSON object.
    """

    __slots__ = ("_items", "text")

    def __init__(self, text: bytes) -> None:
        self.text: Final = text
        self._items: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"<UnreadObject of {len(self.text)} bytes>"

    def __getitem__(self, key: str) -> Any:
        return self._read()[key]

    def __len__(self) -> int:
        return len(self._read())

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def _read(self) -> dict[str, Any]:
        if self._items is None:
            self._items = _decode_object(self.text)
        return self._items
