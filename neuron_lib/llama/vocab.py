"""Text to tokens and back, for one model's vocabulary.

Every text of a client becomes tokens through `Vocab.tokenize`. libllama's own function ends the process for some texts
(see `text_cuts`).
"""

import ctypes
import re
from functools import cached_property
from itertools import accumulate
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from neuron_lib.errors import InvalidRequest
from neuron_lib.llama.bindings import lib
from neuron_lib.llama.text_cuts import LONGEST_STRETCH, Cutter

__all__ = ("Vocab",)

_REMEMBERED_SEARCHES: Final = 64
_CONTROL: Final = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN
_TOKENIZE: Final = ctypes.CFUNCTYPE(
    ctypes.c_int32,
    ctypes.c_void_p,  # the vocabulary
    ctypes.c_void_p,  # the text
    ctypes.c_int32,  # its bytes
    ctypes.c_void_p,  # the tokens
    ctypes.c_int32,  # the most of them
    ctypes.c_bool,  # add_special
    ctypes.c_bool,  # parse_special
)
_SPACES: Final = re.compile(r"\s{2,}")


class Vocab:
    """The native vocabulary of a model. It never changes, so any thread may use it. Lives as long as its `Model`."""

    def __init__(self, pointer: Any, *, pre_tokenizer: str = "") -> None:
        """`pre_tokenizer` is the value of `tokenizer.ggml.pre` in the file."""
        self._pointer = pointer
        self._type: Final[int] = lib.llama_vocab_type(pointer)
        self._uses_regex: Final = self._type == lib.LLAMA_VOCAB_TYPE_BPE
        self._drops_spaces: Final = pre_tokenizer == "whitespace"
        self._pieces: dict[int, bytes] = {}
        self.n_tokens: int = lib.llama_vocab_n_tokens(pointer)
        self.eog: Final = frozenset(t for t in range(self.n_tokens) if lib.llama_vocab_is_eog(pointer, t))
        self._searches: dict[str, frozenset[int]] = {}

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        """The tokens of `text`. Blocks; `effort` says for how long.

        `add_special` adds the tokens that the model wants around a whole prompt (BOS). With `parse_special` spellings
        of special tokens in the text become these tokens. Raises `InvalidRequest` if the tokenizer refuses the text.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:  # half of a surrogate pair, which some JSON parsers accept
            raise InvalidRequest("the text is not valid Unicode") from error
        return self._read(text, add_special=add_special, parse_special=parse_special)

    def _read(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """The tokens of a text that may contain single bytes as surrogates, in the way of `surrogateescape`."""
        if self._drops_spaces:
            # This pre-tokenizer has no tokens for spaces. libllama has an assertion that it never meets two of them.
            text = _SPACES.sub(" ", text)
        if len(text) <= LONGEST_STRETCH:
            return self._tokens(text, add_special=add_special, parse_special=parse_special)
        pieces = tuple((self._cutter if parse_special else self._plain_cutter).pieces(text))
        if len(pieces) == 1:
            return self._tokens(text, add_special=add_special, parse_special=parse_special)
        tokens = self._begin if add_special else []
        for piece in pieces:
            tokens += self._tokens(piece, add_special=False, parse_special=parse_special)
        return tokens + self._end if add_special else tokens

    def effort(self, text: str) -> int:
        """Approximately how long tokenizing takes, in characters of prose. A million of them take half a second."""
        return self._cutter.effort(text)

    @cached_property
    def _cutter(self) -> Cutter:
        """For text in which all special tokens are read as tokens."""
        return self._cutter_around(_CONTROL | lib.LLAMA_TOKEN_ATTR_USER_DEFINED)

    @cached_property
    def _plain_cutter(self) -> Cutter:
        """For text in which control tokens are text."""
        return self._cutter_around(lib.LLAMA_TOKEN_ATTR_USER_DEFINED)

    def _cutter_around(self, attributes: int) -> Cutter:
        """Takes about 20 ms for 50,000 tokens, so a cutter is made at its first use."""
        vocab = self._pointer
        special = (t for t in range(self.n_tokens) if lib.llama_vocab_get_attr(vocab, t) & attributes)
        texts = [lib.llama_vocab_get_text(vocab, token).decode("utf-8", "replace") for token in special]
        return Cutter(texts, cuts_stretches=self._uses_regex)

    @property
    def _begin(self) -> list[int]:
        """The tokens that the model wants in front of a whole prompt."""
        around = self._tokens("", add_special=True, parse_special=False)
        return around[: len(around) - len(self._end)]

    @property
    def _end(self) -> list[int]:
        """The tokens that the model wants behind a whole prompt."""
        around = self._tokens("", add_special=True, parse_special=False)
        has_end = lib.llama_vocab_get_add_eos(self._pointer) or self._type == lib.LLAMA_VOCAB_TYPE_WPM
        return around[-1:] if has_end else []

    @cached_property
    def tokenize_function(self) -> Any:
        """A C function of the type of `llama_tokenize`, for a caller that needs only the first tokens of a text.

        It reads only the first `LONGEST_STRETCH` bytes. A grammar that forces a long text has it tokenized again in
        each step, in the thread in which all replies wait.
        """
        native = ctypes.cast(lib.llama_tokenize, _TOKENIZE)

        @_TOKENIZE  # type: ignore[untyped-decorator]  # a ctypes function type
        def tokenize(vocab: int, text: int, size: int, tokens: int, room: int, *flags: bool) -> int:
            if size > LONGEST_STRETCH:
                size = _whole_code_points(ctypes.string_at(text, LONGEST_STRETCH + 1), LONGEST_STRETCH)
            if not self._drops_spaces:
                return int(native(vocab, text, size, tokens, room, *flags))
            add_special, parse_special = flags
            # Forced text may end inside a code point.
            readable = ctypes.string_at(text, size).decode("utf-8", "surrogateescape")
            found = self._read(readable, add_special=add_special, parse_special=parse_special)
            if len(found) > room:
                return -len(found)
            ctypes.memmove(tokens, (ctypes.c_int32 * len(found))(*found), 4 * len(found))
            return len(found)

        return tokenize

    def _tokens(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        raw = text.encode(errors="surrogateescape")
        # One token for each byte, and the special tokens around them, are enough for every tokenizer. So one call is
        # enough.
        capacity = len(raw) + 8
        buffer = (ctypes.c_int32 * capacity)()
        count = lib.llama_tokenize(self._pointer, raw, len(raw), buffer, capacity, add_special, parse_special)
        if count < 0:
            raise InvalidRequest("the model's tokenizer cannot read this text", text_bytes=len(raw))
        return buffer[:count]

    def piece(self, token: int) -> bytes:
        """The bytes of a generated token; empty for control tokens. May be a part of a code point."""
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
        """The bytes of a token, those of control tokens included."""
        return self.piece(token) or self.spell(token, special=True)

    def tokens_containing(self, text: str) -> frozenset[int]:
        """The tokens whose text contains `text`, control tokens included.

        The first search reads the whole vocabulary. This takes about 60 ms for 50,000 tokens.
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
        """The texts of all tokens one after the other, each followed by a byte that UTF-8 does not have; and the ends
        of the texts.
        """
        texts = [self.text(token) + b"\xff" for token in range(self.n_tokens)]
        return b"".join(texts), np.fromiter(accumulate(map(len, texts)), np.intp, len(texts))

    def show(self, token: int) -> None:
        """From now on `piece` returns the spelling of this control token, because it is a marker that parsers of text
        look for.
        """
        self._pieces[token] = self.spell(token, special=True)

    def single_token(self, text: str) -> int | None:
        """The token that stands for exactly this marker, or None if the vocabulary has none."""
        tokens = self.tokenize(text, add_special=False)
        if len(tokens) == 1 and self.spell(tokens[0], special=True) == text.encode():
            return tokens[0]
        return None

    @property
    def any_token(self) -> int:
        """A token that every model can read: BOS, or the first token of the vocabulary."""
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
    def separator(self) -> str:
        """The texts of the tokens that the model wants between two texts of one prompt: that which ends the first text,
        and that which separates the two. A line break if the model wants neither.
        """
        separates = lib.llama_vocab_get_add_sep(self._pointer)
        tokens = [lib.llama_vocab_eos(self._pointer)] if lib.llama_vocab_get_add_eos(self._pointer) else []
        tokens += [lib.llama_vocab_sep(self._pointer)] if separates else []
        text = b"".join(self.spell(token, special=True) for token in tokens)
        return text.decode("utf-8", "replace") or "\n"

    @property
    def fill_in_middle(self) -> tuple[str, str, str] | None:
        """The texts of the tokens before the beginning of a text, before its end, and before what belongs between them.
        None if the model does not have all three.
        """
        native = (lib.llama_vocab_fim_pre, lib.llama_vocab_fim_suf, lib.llama_vocab_fim_mid)
        texts = [self.spell(find(self._pointer), special=True).decode("utf-8", "replace") for find in native]
        return (texts[0], texts[1], texts[2]) if all(texts) else None

    @property
    def pointer(self) -> Any:
        """The native handle, for `GrammarCompiler`."""
        return self._pointer


def _whole_code_points(text: bytes, size: int) -> int:
    """The largest position up to `size` that is not inside a code point. The text must be longer than `size`."""
    before = range(size, size - 4, -1)
    return next((place for place in before if text[place] & 0xC0 != 0x80), size)
