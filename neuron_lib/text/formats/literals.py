"""Values as models write them: JSON, Python, or both mixed. Finds the end of a value in a stream, and reads values."""

import math
import re
from typing import Any, Final

__all__ = ("LiteralReader", "ValueScanner")

_MARK: Final = re.compile(r"""["'\[\](){}]""")
_STRING_MARKS: Final[dict[str, re.Pattern[str]]] = {'"': re.compile(r'["\\]'), "'": re.compile(r"['\\]")}


class ValueScanner:
    """Finds where a value in brackets ends, in text that comes in pieces. The text begins with the opening bracket."""

    __slots__ = ("_depth", "_is_escaped", "_quote")

    def __init__(self) -> None:
        self._depth = 0
        self._quote = ""
        self._is_escaped = False

    @property
    def is_in_string(self) -> bool:
        """Whether the text so far ends inside a string."""
        return bool(self._quote)

    def feed(self, text: str) -> int | None:
        """The place behind the end of the value in `text`. None if the value goes on."""
        position = 0
        if self._is_escaped and text:
            self._is_escaped, position = False, 1
        while True:
            mark = (_STRING_MARKS[self._quote] if self._quote else _MARK).search(text, position)
            if mark is None:
                return None
            position = mark.end()
            if mark[0] == "\\":
                self._is_escaped = position == len(text)
                position += 1
            elif self._quote:
                self._quote = ""
            elif mark[0] in "\"'":
                self._quote = mark[0]
            else:
                self._depth += 1 if mark[0] in "[({" else -1
                if self._depth <= 0:
                    return position


_MOST_DEPTH: Final = 200
_SPACE: Final = re.compile(r"\s*")
_NUMBER: Final = re.compile(r"[-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.])")
_WORD: Final = re.compile(r"[^\W\d]\w*(?:[.\-][^\W\d]\w*)*")
_WORDS: Final = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
_TEXT: Final[dict[str, re.Pattern[str]]] = {'"': re.compile(r'[^"\\]+'), "'": re.compile(r"[^'\\]+")}
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": ""}
_HEX: Final = {"u": 4, "U": 8, "x": 2}
_CLOSING: Final = {"[": "]", "(": ")", "{": "}"}


class LiteralReader:
    """Reads values from a text, in the notation of JSON or of Python. All methods raise `ValueError` for anything else.

    `position` is the place that is read next.
    """

    __slots__ = ("_depth", "_text", "position")

    def __init__(self, text: str, position: int = 0) -> None:
        self._text = text
        self._depth = 0
        self.position: int = position

    @property
    def is_at_end(self) -> bool:
        """Whether only white space follows."""
        self.skip_space()
        return self.position >= len(self._text)

    def skip_space(self) -> None:
        """Go on behind white space."""
        match = _SPACE.match(self._text, self.position)
        self.position = self.position if match is None else match.end()

    def takes(self, mark: str) -> bool:
        """Whether `mark` follows. Then go on behind it."""
        self.skip_space()
        if not self._text.startswith(mark, self.position):
            return False
        self.position += len(mark)
        return True

    def expect(self, mark: str) -> None:
        """Go on behind `mark`, which must follow."""
        if not self.takes(mark):
            raise ValueError(f"no {mark!r} at {self.position}")

    def word(self) -> str:
        """A name, such as that of a function. May have dots and hyphens in it."""
        self.skip_space()
        match = _WORD.match(self._text, self.position)
        if match is None:
            raise ValueError(f"no name at {self.position}")
        self.position = match.end()
        return match[0]

    def value(self) -> Any:
        """One value."""
        self.skip_space()
        first = self._text[self.position : self.position + 1]
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise ValueError("nested too deeply")
        try:
            if first and first in "\"'":
                return self._strings()
            if first and first in "[(":
                return self._items(first)
            if first == "{":
                return self._object()
            if first.isalpha():
                word = self.word()
                if word not in _WORDS:
                    raise ValueError(f"{word} is no value")
                return _WORDS[word]
            return self._number()
        finally:
            self._depth -= 1

    def _strings(self) -> str:
        """A string, or several without anything between them, as Python joins them."""
        text = self._string()
        while self._text[self.position : self.position + 1] in {'"', "'"}:
            text += self._string()
        return text

    def _string(self) -> str:
        quote = self._text[self.position]
        self.position += 1
        parts: list[str] = []
        while True:
            if match := _TEXT[quote].match(self._text, self.position):
                parts.append(match[0])
                self.position = match.end()
            mark = self._text[self.position : self.position + 1]
            self.position += 1
            if mark == quote:
                return "".join(parts).encode("utf-16", "surrogatepass").decode("utf-16")  # joins escaped pairs
            if not mark:
                raise ValueError("a string without an end")
            parts.append(self._escape())

    def _escape(self) -> str:
        kind = self._text[self.position : self.position + 1]
        self.position += 1
        if digits := _HEX.get(kind):
            number = self._text[self.position : self.position + digits]
            self.position += digits
            if len(number) < digits:
                raise ValueError("an escape without an end")
            return chr(int(number, 16))
        if not kind:
            raise ValueError("an escape without an end")
        if kind in _ESCAPES:
            return _ESCAPES[kind]
        return kind if kind in "\\\"'/" else "\\" + kind  # as Python does

    def _items(self, opening: str) -> list[Any]:
        self.expect(opening)
        items: list[Any] = []
        while not self.takes(_CLOSING[opening]):
            if items:
                self.expect(",")
                if self.takes(_CLOSING[opening]):
                    break
            items.append(self.value())
        return items

    def _object(self) -> dict[str, Any]:
        self.expect("{")
        members: dict[str, Any] = {}
        is_first = True
        while not self.takes("}"):
            if not is_first:
                self.expect(",")
                if self.takes("}"):
                    break
            is_first = False
            key = self.value()
            if not isinstance(key, str):
                raise ValueError("a key that is no text")  # noqa: TRY004 - the one error of this class
            self.expect(":")
            members[key] = self.value()
        return members

    def _number(self) -> int | float:
        match = _NUMBER.match(self._text, self.position)
        if match is None:
            raise ValueError(f"no value at {self.position}")
        self.position = match.end()
        text = match[0].replace("_", "")
        digits = text.lstrip("+-")
        if digits.isdecimal():
            if digits.startswith("0") and len(digits) > 1:
                raise ValueError("a number that begins with 0")  # perhaps not meant as a number
            return int(text)
        number = float(text)
        if not math.isfinite(number):
            raise ValueError("a number out of range")
        return number
