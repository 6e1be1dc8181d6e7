"""Text to tokens and back, for one model's vocabulary."""

import ctypes
import re
from functools import cached_property
from itertools import accumulate
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from neuron_lib.errors import InvalidRequest
from neuron_lib.llama.bindings import lib

__all__ = ("Vocab",)

_REMEMBERED_SEARCHES: Final = 64


class Vocab:
    """Reads the native vocabulary, which never changes, so any thread may call it. Belongs to its `Model`."""

    def __init__(self, pointer: Any) -> None:
        self._pointer = pointer
        self._pieces: dict[int, bytes] = {}
        self.n_tokens: int = lib.llama_vocab_n_tokens(pointer)
        self.eog: Final = frozenset(t for t in range(self.n_tokens) if lib.llama_vocab_is_eog(pointer, t))
        self._searches: dict[str, frozenset[int]] = {}

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        """The tokens of `text`.

        `add_special` adds the tokens the model wants around a whole prompt (BOS); `parse_special` reads special
        tokens spelled out in the text as such. Raises `InvalidRequest` if the tokenizer refuses the text.
        """
        try:
            raw = text.encode()
        except UnicodeEncodeError as error:  # half a surrogate pair, which some JSON parsers let through
            raise InvalidRequest("the text is not valid Unicode") from error
        # One token per byte and the special ones around it: enough for every tokenizer, so one call does.
        capacity = len(raw) + 8
        buffer = (ctypes.c_int32 * capacity)()
        count = lib.llama_tokenize(self._pointer, raw, len(raw), buffer, capacity, add_special, parse_special)
        if count < 0:
            raise InvalidRequest("the model's tokenizer cannot read this text", text_bytes=len(raw))
        return buffer[:count]

    def piece(self, token: int) -> bytes:
        """The bytes a generated token stands for; nothing for control tokens. May be part of a code point."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self.spell(token, special=False)
        return piece

    def spell(self, token: int, *, special: bool) -> bytes:
        """The bytes of a token; with `special` also those of control tokens."""
        if not 0 <= token < self.n_tokens:
            return b""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            written = lib.llama_token_to_piece(self._pointer, token, buffer, size, 0, special)
            if written >= 0:
                return buffer.raw[:written]
            size = -written

    def text(self, token: int) -> bytes:
        """The bytes of a token, control tokens spelled out."""
        return self.piece(token) or self.spell(token, special=True)

    def tokens_containing(self, text: str) -> frozenset[int]:
        """The tokens whose text contains `text`, control tokens included.

        The first search of all reads the whole vocabulary, which takes some 60 ms for 50 000 tokens.
        """
        tokens = self._searches.get(text)
        if tokens is None:
            if len(self._searches) == _REMEMBERED_SEARCHES:
                del self._searches[next(iter(self._searches))]
            tokens = self._searches[text] = self._search(text)
        return tokens

    def _search(self, text: str) -> frozenset[int]:
        texts, ends = self._all_texts
        pattern = re.compile(re.escape(text.encode(errors="surrogatepass")))
        starts = np.fromiter((match.start() for match in pattern.finditer(texts)), np.intp)
        return frozenset(np.searchsorted(ends, starts, side="right").tolist())

    @cached_property
    def _all_texts(self) -> tuple[bytes, npt.NDArray[np.intp]]:
        """The texts of all tokens one after the other, each closed by a byte that UTF-8 does not have; their ends."""
        texts = [self.text(token) + b"\xff" for token in range(self.n_tokens)]
        return b"".join(texts), np.fromiter(accumulate(map(len, texts)), np.intp, len(texts))

    def show(self, token: int) -> None:
        """From now on `piece` spells this control token out, because it is a marker that text parsers look for."""
        self._pieces[token] = self.spell(token, special=True)

    def single_token(self, text: str) -> int | None:
        """The token that stands for exactly this marker, or None if the vocabulary has no such token."""
        tokens = self.tokenize(text, add_special=False)
        if len(tokens) == 1 and self.spell(tokens[0], special=True) == text.encode():
            return tokens[0]
        return None

    @property
    def any_token(self) -> int:
        """A token that every model can read: BOS, or the first of the vocabulary."""
        return max(0, int(lib.llama_vocab_bos(self._pointer)))

    @property
    def bos(self) -> str:
        """The text of the beginning-of-sequence token, "" if there is none."""
        return self.spell(lib.llama_vocab_bos(self._pointer), special=True).decode("utf-8", "replace")

    @property
    def eos(self) -> str:
        """The text of the end-of-sequence token, "" if there is none."""
        return self.spell(lib.llama_vocab_eos(self._pointer), special=True).decode("utf-8", "replace")

    @property
    def pointer(self) -> Any:
        """The native handle, for `GrammarCompiler`."""
        return self._pointer
