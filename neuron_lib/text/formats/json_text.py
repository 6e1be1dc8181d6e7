"""Reads JSON as models write it: with line breaks in strings, or with Python's strings and constants. Pure."""

import json
import math
import re
from collections.abc import Mapping
from typing import Final, NoReturn

__all__ = ("DECODER", "NOT_UNDERSTOOD", "with_json_words")

NOT_UNDERSTOOD: Final = (ValueError, RecursionError)
"""The errors for text that is not JSON of the wanted shape (`UnicodeError` is among them), or that contains what JSON
cannot.
"""

_PYTHON_WORD: Final = re.compile(r"""'((?:[^'\\]|\\.)*)'|"(?:[^"\\]|\\.)*"|\b(?:True|False|None)\b""", re.DOTALL)
_PYTHON_QUOTE: Final = re.compile(r"""\\(.)|\"""", re.DOTALL)
_JSON_WORDS: Final[Mapping[str, str]] = {"True": "true", "False": "false", "None": "null"}


def with_json_words(text: str) -> str:
    """`text` with Python's strings and constants written as in JSON."""

    def quoted(mark: re.Match[str]) -> str:
        if mark[1] is None:
            return '\\"'
        return "'" if mark[1] == "'" else mark[0]

    def as_json(word: re.Match[str]) -> str:
        if word[1] is None:
            return _JSON_WORDS.get(word[0], word[0])
        return f'"{_PYTHON_QUOTE.sub(quoted, word[1])}"'

    return _PYTHON_WORD.sub(as_json, text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number out of range")
    return number


DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite, strict=False)
"""Raises one of `NOT_UNDERSTOOD` for anything else than JSON, also for infinite numbers."""
