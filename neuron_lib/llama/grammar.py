"""Binds a reply to a grammar, token by token: JSON schemas, regular expressions and Lark grammars, by llguidance.

A client's grammar never reaches libllama, because some grammars make libllama's parser end the process. Grammars that
make llguidance end its process are found in a process of their own. If llguidance takes too long for a token, only that
reply fails.
"""

import ctypes
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, lru_cache, partial
from pathlib import Path
from signal import SIGABRT, SIGFPE, SIGILL, SIGPROF, SIGSEGV
from typing import TYPE_CHECKING, Final, Self, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from neuron_lib.errors import InvalidGrammar, Overloaded, OverloadReason
from neuron_lib.llama import gbnf
from neuron_lib.llama.bindings import lib
from neuron_lib.llama.vocab import Vocab
from neuron_lib.types import Grammar

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from llguidance._lib import JsonCompileOptions

__all__ = ("MAX_SOURCE_BYTES", "Calls", "Constraint", "ConstraintFailed", "GrammarCompiler", "special_tokens")

logger: logging.Logger = logging.getLogger(__name__)

MAX_SOURCE_BYTES: Final = 256 * 1024

_PARAMS: Final = {"json_schema": "response_format", "regex": "regex", "lark": "grammar"}
_LONGEST_REASON: Final = 500
_JSON_STYLE: "Final[JsonCompileOptions]" = {
    "whitespace_flexible": False,
    "whitespace_pattern": None,
    "item_separator": ", ",
    "key_separator": ": ",
}
"""JSON is written in one way, whatever the schema's `x-guidance` says. If white space is free, a model may write
nothing else until it is cut off. Small models have the least trouble with these separators (measured).
"""
_PANICKED: Final = "the grammar library fails on it"
_TRIAL: Final = (sys.executable, "-P", str(Path(__file__).with_name("grammar_trial.py")))
_TRIAL_LIMIT_S: Final = 5.0
"""Seconds. Far more than the processor time that a trial allows itself, for a machine that has little time to give."""
_VERDICTS: Final = frozenset(
    {os.EX_DATAERR, *(-number for number in (SIGABRT, SIGFPE, SIGILL, SIGPROF, SIGSEGV))}  # as in `subprocess`
)
"""The exit statuses of a trial that say something about its grammar: its own limits, and crashes."""
_RETRY_AFTER_S: Final = 4
_MOST_REMEMBERED: Final = 16
"""Compiled grammars that are kept. One for 50 tools takes 3 MiB (measured)."""
_LINE: Final = re.compile(r"\bat ([0-9]+)\(")
"""Where llguidance names a line of a grammar."""
_TOKEN_ID: Final = re.compile(r"<\[[0-9]+\]>")

Answer = TypeVar("Answer")


class ConstraintFailed(Exception):
    """A reply cannot continue in its grammar. The grammar became too complex, or a token was not allowed.

    `param` is the field of the request that had the grammar.
    """

    def __init__(self, reason: str, *, param: str) -> None:
        super().__init__(f"{param}: the reply cannot go on in its grammar: {reason}")
        self.param: Final = param


class Calls(Struct, frozen=True, kw_only=True):
    """The calls of a request's tools, and what a reply may be instead.

    `rules` are rules in llguidance's Lark dialect, of which `calls` is the text of all calls. `looser` are the same
    without the schemas of tools that are not strict, for schemas that llguidance refuses; "" if there are none.
    `strict` are the schemas of strict tools, with their fields in the request. `answer` may come instead of the calls.
    """

    rules: str
    looser: str = ""
    strict: tuple[tuple[str, str], ...] = ()
    answer: Grammar | None = None


class Constraint:
    """The state of one reply in its grammar. Lives as long as its sequence. One thread at a time.

    All methods but `copy` and `is_complete` raise `ConstraintFailed`. A constraint that has raised it raises it always.
    """

    def __init__(self, matcher: "LLMatcher", *, tokenizer: "LLTokenizer", eog: frozenset[int], param: str) -> None:
        self._matcher: Final = matcher
        self._tokenizer: Final = tokenizer
        self._eog: Final = eog
        self._param: Final = param

    def copy(self) -> Self:
        """A new constraint in the same state, independent of this one."""
        return type(self)(self._matcher.deep_copy(), tokenizer=self._tokenizer, eog=self._eog, param=self._param)

    def after(self, text: bytes) -> Self | None:
        """A copy that has read `text`, whatever its tokens are; None if the text is not allowed.

        Spellings of special tokens are read as text, or as these tokens if they are not allowed as text.
        """
        try:
            readings = (self._tokenizer.greedy_tokenize(text.decode()), self._special_reading(text))
        except UnicodeDecodeError:
            return None
        for tokens in readings:
            if self._ask(self._matcher.validate_tokens, tokens) == len(tokens):
                copy = self.copy()
                copy._ask(copy._matcher.consume_tokens, tokens)
                return copy
        return None

    def _special_reading(self, text: bytes) -> list[int]:
        return self._tokenizer.tokenize_bytes(text, parse_special=True)

    def allows(self, token: int) -> bool:
        """Whether the token may come next. Tokens that end a reply may come if the grammar is fulfilled."""
        is_allowed = self._ask(self._matcher.validate_tokens, [token]) == 1
        return is_allowed or (self.is_complete and token in self._eog)

    def mask(self, row: npt.NDArray[np.float32]) -> None:
        """Write minus infinity over the scores of all tokens that may not come next.

        `row` is float32 of shape (n_vocab,) and is changed in place. If the grammar allows only one text, only the
        first of the tokens that usually spell it remains, although `allows` accepts every token that spells it.
        """
        bits = np.frombuffer(self._ask(self._matcher.compute_bitmask), np.uint8)
        row[np.unpackbits(bits, count=len(row), bitorder="little") == 0] = -np.inf

    def accept(self, token: int) -> None:
        """Advance by `token`, which must be allowed."""
        self._ask(self._matcher.consume_token, token)

    @property
    def is_complete(self) -> bool:
        """Whether only the end may follow. True already after the last token of the text."""
        return self._matcher.is_stopped()

    @property
    def is_satisfied(self) -> bool:
        """Whether the text so far may be the whole text."""
        return self._ask(self._matcher.is_accepting)

    def _ask(self, question: Callable[..., Answer], *arguments: object) -> Answer:
        """The answer of the matcher. Raises `ConstraintFailed` if the matcher fails, has failed before, or panics."""
        try:
            answer = question(*arguments)
        except BaseException as error:
            if not _is_panic(error):
                raise
            raise ConstraintFailed(_PANICKED, param=self._param) from None
        if self._matcher.is_error():
            raise ConstraintFailed(_reason(self._matcher.get_error()), param=self._param)
        return answer


class GrammarCompiler:
    """Compiles grammars for one model's vocabulary. Blocking. One thread at a time, with a stack of 8 MiB."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab: Final = vocab
        # By what was asked for, the longest unused first. Clients repeat their schemas and their tools.
        self._compiled: Final[dict[Grammar | Calls, Constraint]] = {}

    def knows(self, wanted: "Grammar | Calls") -> bool:
        """Whether compiling this takes next to no time. Any thread may ask."""
        return wanted in self._compiled

    def compile(self, wanted: "Grammar | Calls") -> Constraint:
        """The constraint at the beginning of a reply.

        Raises `InvalidGrammar` with llguidance's text and the field `param`, and `Overloaded` if this host could not
        try the grammar out.
        """
        known = self._compiled.pop(wanted, None)
        if known is None:
            known = self._calls(wanted) if isinstance(wanted, Calls) else self._grammar(wanted)
        self._compiled[wanted] = known
        if len(self._compiled) > _MOST_REMEMBERED:
            del self._compiled[next(iter(self._compiled))]
        return known.copy()

    def _grammar(self, grammar: Grammar) -> Constraint:
        param = grammar.param or _PARAMS[grammar.kind]
        notation = "; grammars are read in Lark's notation and in GBNF" if grammar.kind == "lark" else ""
        return self._constraint(partial(_serialized, grammar), param=param, hint=notation)

    def _calls(self, calls: "Calls") -> Constraint:
        if calls.answer is not None:
            self._grammar(calls.answer)  # so that an error names its field
        if calls.strict:
            self._check_strict(calls.strict)
        try:
            return self._constraint(partial(_with_answer, calls.rules, calls.answer), param="tools")
        except InvalidGrammar:
            if not calls.looser:
                raise
            return self._constraint(partial(_with_answer, calls.looser, calls.answer), param="tools")

    def _check_strict(self, strict: tuple[tuple[str, str], ...]) -> None:
        """Raise `InvalidGrammar`, for the field that has it, for a schema that is not understood to the letter."""
        try:
            self._constraint(partial(_each_of, [schema for schema, _ in strict]), param="tools")
        except InvalidGrammar as error:
            line = _LINE.search(str(error))  # a schema has a line of its own, behind the first
            place = int(line[1]) - 2 if line is not None else len(strict)
            if not 0 <= place < len(strict):
                raise
            param = strict[place][1]
            text = f"{param}: {str(error).removeprefix('tools: ')}"
            raise InvalidGrammar(text, param=param) from None  # the message repeats all of it

    def _constraint(self, serialize: Callable[[], str], *, param: str, hint: str = "") -> Constraint:
        try:
            matcher = self._matcher(serialize())
        except ValueError as error:
            text = f"{param}: {_reason(str(error))}{hint}"
            raise InvalidGrammar(text, param=param) from None  # the message repeats all of it
        except BaseException as error:
            if not _is_panic(error):
                raise
            raise InvalidGrammar(f"{param}: {_PANICKED}", param=param) from None
        return Constraint(matcher, tokenizer=self._tokenizer, eog=self._vocab.eog, param=param)

    def _matcher(self, source: str) -> "LLMatcher":
        """A matcher that allows at least one first token. Raises `ValueError`."""
        from neuron_lib.llama.grammar_trial import compile_grammar  # noqa: PLC0415 - see `_tokenizer`

        if verdict := _try_out(_TOKEN_ID.sub("<[0]>", source)):  # the trial has another vocabulary
            raise ValueError(verdict)
        matcher = compile_grammar(self._tokenizer, source)
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        matcher.compute_bitmask()
        if matcher.is_error():
            raise ValueError(f"no first token can be chosen: {matcher.get_error()}")
        return matcher

    @cached_property
    def _tokenizer(self) -> "LLTokenizer":
        # This takes 0.2 s and 20 MB for 49k tokens, 1.1 s and 110 MB for 262k (measured). So it is made for the first
        # grammar only.
        from llguidance import LLTokenizer  # noqa: PLC0415 - not every model needs it

        # llguidance has a function for all this, but it asks libllama for each token's kind under a deprecated name.
        tokenizer: LLTokenizer = LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]  # not in its stub
            tokens=[self._bytes(token) for token in range(self._vocab.n_tokens)],
            vocab_ptr=self._vocab.pointer,
            # Text that a grammar forces is a client's text. It may be as long as the grammar.
            tokenize_fptr=ctypes.cast(self._vocab.tokenize_function, ctypes.c_void_p).value,
            eos_token=sorted(self._vocab.eog),
        )
        return tokenizer

    def _bytes(self, token: int) -> bytes:
        """The spelling of the token, with llguidance's mark in front of non-text tokens such as `<|im_end|>`."""
        spelled = self._vocab.spell(token, special=True)
        return b"\xff" + spelled if _is_special(self._vocab, token) else spelled


def special_tokens(vocab: Vocab, texts: Iterable[str]) -> Mapping[str, int]:
    """Those of the texts for which llguidance knows a special token, with its id: in rules they must be `<[id]>`."""
    found = ((text, vocab.single_token(text)) for text in texts)
    return {text: token for text, token in found if token is not None and _is_special(vocab, token)}


def _is_special(vocab: Vocab, token: int) -> bool:
    """Whether llguidance is told that the token, such as `<|im_end|>`, is no text."""
    kind = lib.llama_vocab_get_attr(vocab.pointer, token)
    if kind & lib.LLAMA_TOKEN_ATTR_CONTROL:
        return True
    spelled = vocab.spell(token, special=True)
    return bool(kind & lib.LLAMA_TOKEN_ATTR_USER_DEFINED) and spelled[:1] == b"<" and spelled[-1:] == b">"


def _with_answer(rules: str, answer: Grammar | None) -> str:
    """Rules for calls in llguidance's own notation, with the answer that may come instead. Raises `ValueError`."""
    if len(rules) > MAX_SOURCE_BYTES:
        raise ValueError(f"{len(rules)} characters are too long, {MAX_SOURCE_BYTES} are allowed")
    if answer is None:
        return msgspec.json.encode({"grammars": [{"lark_grammar": f"start: calls\n{rules}"}]}).decode()
    (inner,) = msgspec.json.decode(_serialized(answer))["grammars"]
    outer = {"lark_grammar": f"start: calls | @answer\n{rules}"}
    return msgspec.json.encode({"grammars": [outer, {**inner, "name": "answer"}]}).decode()


def _each_of(schemas: Iterable[str]) -> str:
    """A grammar of any of these JSON schemas in llguidance's own notation, with a line for each. Raises `ValueError`
    for their size.
    """
    styled = (msgspec.json.decode(schema) | {"x-guidance": _JSON_STYLE} for schema in schemas)
    rules = [f"each_{place}: %json {msgspec.json.encode(schema).decode()}" for place, schema in enumerate(styled)]
    start = "start: " + " | ".join(f"each_{place}" for place in range(len(rules)))
    return _serialized(Grammar("lark", "\n".join([start, *rules])))


def _serialized(grammar: Grammar) -> str:
    """The grammar in llguidance's own notation.

    Raises `ValueError` for its size, for a schema that is not a JSON object, and for GBNF that cannot be translated.
    Any other grammar is not parsed here.
    """
    from llguidance import LLMatcher  # noqa: PLC0415 - see `_tokenizer`

    size = len(grammar.source.encode())  # half of a surrogate pair raises a ValueError too
    if size > MAX_SOURCE_BYTES:
        raise ValueError(f"{size} bytes are too long, {MAX_SOURCE_BYTES} are allowed")
    match grammar.kind:
        case "json_schema":
            return LLMatcher.grammar_from_json_schema(grammar.source, overrides=_JSON_STYLE)
        case "regex":
            return LLMatcher.grammar_from_regex(grammar.source)
        case "lark" if gbnf.is_gbnf(grammar.source):
            return msgspec.json.encode({"grammars": [{"lark_grammar": gbnf.to_lark(grammar.source)}]}).decode()
        case "lark":
            return msgspec.json.encode({"grammars": [{"lark_grammar": grammar.source}]}).decode()


@lru_cache(maxsize=32)  # clients repeat their schemas, and a trial takes 60 ms, or 0.4 s to fail
def _try_out(source: str) -> str | None:
    """The reason why compiling this fails, or None.

    Results that are not certain are raised and so not remembered: `ValueError` if the trial took too long, `Overloaded`
    if the trial could not begin or was ended from outside, for example by a kernel without memory.
    """
    try:
        trial = subprocess.run(  # noqa: S603 - our own command; the grammar is its input
            _TRIAL, input=source.encode(), capture_output=True, timeout=_TRIAL_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError("it takes too long to compile") from error
    except OSError as error:
        raise _not_now(f"the grammar cannot be tried out now: {error}") from error
    if trial.returncode and trial.returncode not in _VERDICTS:
        raise _not_now(f"the trial of the grammar was ended, with status {trial.returncode}")
    if trial.returncode:
        logger.warning("compiling a grammar of %d bytes ended the process: status %d", len(source), trial.returncode)
        return "it is too complex: compiling it takes too much time or memory"
    return trial.stdout.decode() or None


def _is_panic(error: BaseException) -> bool:
    """Whether the error is a panic of llguidance. The class of a panic cannot be imported and is not an `Exception`."""
    return type(error).__name__ == "PanicException"


def _not_now(text: str) -> Overloaded:
    logger.warning("%s", text)
    return Overloaded(text, reason=OverloadReason.QUEUE_FULL, retry_after_s=_RETRY_AFTER_S)


def _reason(words: str) -> str:
    """The first line of llguidance's text, and the line in which its regex parser names the reason."""
    first, *rest = words.splitlines()
    point = next((line for line in rest if line.startswith("error: ")), "").removeprefix("error:")
    return f"{first}{point}"[:_LONGEST_REASON]
