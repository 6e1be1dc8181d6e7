"""Translates GBNF, llama.cpp's notation of grammars, into llguidance's variant of Lark. Pure.

llama.cpp reads a text character by character. llguidance first cuts the text into lexemes, each as long as possible. So
a grammar whose rules lead back to themselves is translated only if no lexeme can go on with a character that may also
begin what follows. A grammar without such rules becomes one regular expression, which always means the same.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

__all__ = ("is_gbnf", "to_lark")

_ROOT: Final = "root"
_MOST_BYTES: Final = 64 << 10
_DEEPEST: Final = 60
"""Groups inside each other."""
_LONGEST: Final = 1_000_000
"""Characters of all regular expressions. The rules are put into each other, so a short grammar may make long ones."""
_MOST_RULES: Final = 200
"""Rules that lead back to themselves."""
_MOST_POSITIONS: Final = 300
"""Characters of all lexemes, each compared with each."""
_MOST_REPEATS: Final = 2000
_LAST_CHAR: Final = 0x10FFFF

_TOKEN: Final = re.compile(
    r"""
    (?P<space>(?:[ \t\r\n]|\#[^\n]*)+)
    | (?P<name>[A-Za-z0-9_-]+)
    | (?P<text>"(?:[^"\\]|\\.)*")
    | (?P<chars>\[(?:[^\]\\]|\\.)*\])
    | (?P<count>\{\s*[0-9]{1,9}\s*(?:,\s*(?:[0-9]{1,9})?\s*)?\})
    | (?P<sign>::=|[().|*+?])
    """,
    re.VERBOSE | re.DOTALL,
)
_RULE: Final = re.compile(r"(?m)^[ \t]*[A-Za-z0-9_-]+[ \t]*::=")
_CHAR: Final = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))|(.)", re.DOTALL)
_CONTROL: Final = {"t": "\t", "r": "\r", "n": "\n"}
_ESCAPED: Final = frozenset('\\"[]tnr-')
_PLAIN: Final = re.compile(r"[A-Za-z0-9_ ]")


# -------------------------------------------------------------------------------------------------------- the grammar


class _Chars(NamedTuple):
    """One character of these ranges, which include both of their ends, are in order and do not touch."""

    ranges: tuple[tuple[int, int], ...]


class _Ref(NamedTuple):
    rule: str


class _Sequence(NamedTuple):
    items: tuple["_Node", ...]


class _Choice(NamedTuple):
    options: tuple["_Node", ...]


class _Repeat(NamedTuple):
    """At least `least` times and at most `most` times; None: without an end."""

    item: "_Node"
    least: int
    most: int | None


_Node: TypeAlias = _Chars | _Ref | _Sequence | _Choice | _Repeat


def is_gbnf(source: str) -> bool:
    """Whether a grammar has a rule as GBNF writes it. Lark writes one colon."""
    return _RULE.search(source) is not None


def to_lark(source: str) -> str:
    """The grammar in llguidance's variant of Lark. Takes up to half a second.

    Raises `ValueError` for a grammar that is not GBNF, that is too large, that names tokens, or that would not mean the
    same in Lark.
    """
    if len(source.encode()) > _MOST_BYTES:
        raise ValueError(f"a grammar in GBNF may have {_MOST_BYTES} bytes")
    rules = _reachable(_Parser(source).rules())
    expressions = _Expressions(rules)
    root = expressions.of_rules.get(_ROOT)
    return f"start: /{root}/\n" if root is not None else _Recursive(rules, expressions).lark()


# ------------------------------------------------------------------------------------------------------------ reading


class _Token(NamedTuple):
    kind: str
    text: str
    place: int


class _Parser:
    """Reads the rules of one grammar."""

    def __init__(self, source: str) -> None:
        self._tokens: Final = [*_tokens(source)]
        self._source: Final = source
        self._at = 0

    def rules(self) -> dict[str, _Node]:
        """Each rule by its name. Raises `ValueError`."""
        found: dict[str, _Node] = {}
        while (token := self._peek()) is not None:
            if not self._begins_rule():
                raise self._error(token, "a rule is expected")
            if token.text in found:
                raise self._error(token, "this rule is there twice")
            self._at += 2
            found[token.text] = self._choice(depth=0)
        if _ROOT not in found:
            raise ValueError(f"there is no rule {_ROOT!r}")
        return found

    def _choice(self, *, depth: int) -> _Node:
        options = [self._sequence(depth=depth)]
        while self._takes("|"):
            options.append(self._sequence(depth=depth))
        return options[0] if len(options) == 1 else _Choice(tuple(options))

    def _sequence(self, *, depth: int) -> _Node:
        items: list[_Node] = []
        while (token := self._peek()) is not None and token.text not in {"|", ")"} and not self._begins_rule():
            self._at += 1
            items.append(self._repeated(self._item(token, depth=depth)))
        return items[0] if len(items) == 1 else _Sequence(tuple(items))

    def _item(self, token: _Token, *, depth: int) -> _Node:
        match token.kind, token.text:
            case "name", name:
                return _Ref(name)
            case "text", text:
                return _Sequence(tuple(_Chars(((char, char),)) for char, _ in self._chars(token, text[1:-1])))
            case "chars", text:
                return self._class(token, text[1:-1])
            case "sign", ".":
                return _Chars(((0, _LAST_CHAR),))
            case "sign", "(":
                if depth >= _DEEPEST:
                    raise self._error(token, f"more than {_DEEPEST} groups inside each other")
                inner = self._choice(depth=depth + 1)
                if not self._takes(")"):
                    raise self._error(token, "this group has no end")
                return inner
            case _, text:
                raise self._error(token, f"{text!r} is not expected here")

    def _repeated(self, item: _Node) -> _Node:
        while (token := self._peek()) is not None and (token.kind == "count" or token.text in {"*", "+", "?"}):
            self._at += 1
            least, most = _bounds(token.text)
            if max(least, most or 0) > _MOST_REPEATS or (most is not None and most < least):
                raise self._error(token, f"0 to {_MOST_REPEATS} repetitions are possible")
            item = _Repeat(item, least, most)
        return item

    def _class(self, token: _Token, text: str) -> _Chars:
        is_negated = text.startswith("^")
        chars = [*self._chars(token, text[is_negated:])]
        ranges: list[tuple[int, int]] = []
        i = 0
        while i < len(chars):
            first = last = chars[i][0]
            if i + 2 < len(chars) and chars[i + 1] == (ord("-"), False):
                last = chars[i + 2][0]
                i += 2
            if first > last:
                raise self._error(token, "the end of a range is before its beginning")
            ranges.append((first, last))
            i += 1
        merged = _merged(ranges)
        if is_negated:
            edges = [-1, *(edge for first, last in merged for edge in (first, last)), _LAST_CHAR + 1]
            merged = tuple((a + 1, b - 1) for a, b in zip(edges[::2], edges[1::2], strict=True) if a + 1 <= b - 1)
        if not merged:
            raise self._error(token, "this stands for no character")
        return _Chars(merged)

    def _chars(self, token: _Token, text: str) -> Iterator[tuple[int, bool]]:
        """Each character of a text or a class, and whether it was escaped."""
        for match in _CHAR.finditer(text):
            *numbers, escaped, plain = match.groups()
            number = next((int(digits, 16) for digits in numbers if digits is not None), None)
            if number is None and escaped is not None and escaped not in _ESCAPED:
                raise self._error(token, f"the escape {match[0]!r} is not known")
            code = number if number is not None else ord(plain or _CONTROL.get(escaped, escaped))
            if code > _LAST_CHAR or 0xD800 <= code <= 0xDFFF:
                raise self._error(token, f"{match[0]!r} is no character")
            yield code, plain is None

    def _peek(self) -> _Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _begins_rule(self) -> bool:
        name, sign = (*self._tokens[self._at : self._at + 2], None, None)[:2]
        return name is not None and name.kind == "name" and sign is not None and sign.text == "::="

    def _takes(self, sign: str) -> bool:
        token = self._peek()
        takes = token is not None and token.kind == "sign" and token.text == sign
        self._at += takes
        return takes

    def _error(self, token: _Token, problem: str) -> ValueError:
        line = self._source.count("\n", 0, token.place) + 1
        return ValueError(f"line {line} of the grammar in GBNF: {problem}")


def _tokens(source: str) -> Iterator[_Token]:
    at = 0
    while at < len(source):
        match = _TOKEN.match(source, at)
        if match is None:
            line = source.count("\n", 0, at) + 1
            what = "tokens in angle brackets are not read" if source[at] in "<!" else f"{source[at]!r} is not expected"
            raise ValueError(f"line {line} of the grammar in GBNF: {what}")
        at = match.end()
        if match.lastgroup is not None and match.lastgroup != "space":
            yield _Token(match.lastgroup, match[0], match.start())


def _bounds(sign: str) -> tuple[int, int | None]:
    """How often something is there at least, and at most."""
    if sign in {"*", "+", "?"}:
        return int(sign == "+"), 1 if sign == "?" else None
    least, comma, most = sign.strip("{}").partition(",")
    return int(least), int(most) if most.strip() else None if comma else int(least)


def _merged(ranges: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return tuple(merged)


def _reachable(rules: Mapping[str, _Node]) -> dict[str, _Node]:
    """The rules that the root leads to. Raises `ValueError` for a rule that is not there."""
    found: dict[str, _Node] = {}
    waiting = [_ROOT]
    while waiting:
        name = waiting.pop()
        if name not in rules:
            raise ValueError(f"there is no rule {name!r}")
        if name not in found:
            found[name] = rules[name]
            waiting += _refs(rules[name])
    return found


def _refs(node: _Node) -> list[str]:
    match node:
        case _Chars():
            return []
        case _Ref(rule):
            return [rule]
        case _Repeat(item):
            return _refs(item)
        case _Sequence(inner) | _Choice(inner):
            return [name for each in inner for name in _refs(each)]


# ------------------------------------------------------------------------------------------------ regular expressions


class _Expressions:
    """The regular expressions of all rules that do not lead back to themselves, nor to one that does."""

    def __init__(self, rules: Mapping[str, _Node]) -> None:
        self.of_rules: Final[dict[str, str]] = {}
        self._of_nodes: Final[dict[int, str | None]] = {}
        self._size = 0
        missing = {name: set(_refs(node)) for name, node in rules.items()}
        users: dict[str, list[str]] = {name: [] for name in rules}
        for name, refs in missing.items():
            for ref in refs:
                users[ref].append(name)
        waiting = [name for name, refs in missing.items() if not refs]
        while waiting:
            name = waiting.pop()
            self.of_rules[name] = self._counted(self.of(rules[name]))
            for user in users[name]:
                missing[user].discard(name)
                if not missing[user]:
                    waiting.append(user)

    def for_lexeme(self, node: _Node) -> str | None:
        """The expression of a node of a rule that has none; None if the node leads back to a rule without one."""
        if id(node) not in self._of_nodes:  # a node lives as long as its rule
            has_one = all(ref in self.of_rules for ref in _refs(node))
            self._of_nodes[id(node)] = self._counted(self.of(node)) if has_one else None
        return self._of_nodes[id(node)]

    def of(self, node: _Node) -> str:
        """The expression of a node whose rules all have one."""
        match node:
            case _Chars(ranges):
                return _class_of(ranges)
            case _Ref(rule):
                return f"(?:{self.of_rules[rule]})"
            case _Sequence(items):
                return "".join(f"(?:{self.of(item)})" if isinstance(item, _Choice) else self.of(item) for item in items)
            case _Choice(options):
                return "|".join(map(self.of, options))
            case _Repeat(item, least, most):
                inner = self.of(item) if isinstance(item, _Chars) else f"(?:{self.of(item)})"
                return f"{inner}{_count(least, most)}"

    def _counted(self, expression: str) -> str:
        self._size += len(expression)
        if self._size > _LONGEST:
            raise ValueError("the grammar in GBNF is too long once its rules are put into each other")
        return expression


def _class_of(ranges: Sequence[tuple[int, int]]) -> str:
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        return _spelled(ranges[0][0])
    spelled = (_spelled(first) if first == last else f"{_spelled(first)}-{_spelled(last)}" for first, last in ranges)
    return f"[{''.join(spelled)}]"


def _spelled(code: int) -> str:
    return chr(code) if _PLAIN.match(chr(code)) else f"\\x{{{code:x}}}"


def _count(least: int, most: int | None) -> str:
    return f"{{{least},{'' if most is None else most}}}"


# ----------------------------------------------------------------------------------- rules that lead back to themselves


@dataclass(slots=True)
class _Lexeme:
    """The characters of a lexeme, by number: those that begin it, those that end it, and what follows each of them.

    A repetition counts as one without an end. That makes more texts than there are, so what is found of them is more.
    """

    first: set[int]
    last: set[int]
    may_be_empty: bool


class _Recursive:
    """Writes a grammar in which rules lead back to themselves, and checks that it means the same as in GBNF."""

    def __init__(self, rules: Mapping[str, _Node], expressions: _Expressions) -> None:
        self._expressions: Final = expressions
        self._rules: Final = {name: node for name, node in rules.items() if name not in expressions.of_rules}
        self._all: Final = rules
        if len(self._rules) > _MOST_RULES:
            raise ValueError(f"more than {_MOST_RULES} rules of the grammar in GBNF lead back to themselves")
        self._names: Final = {name: f"rule_{number}" for number, name in enumerate(self._rules)}
        self._chars: Final[list[tuple[tuple[int, int], ...]]] = []  # of each position
        self._follow: Final[list[set[int]]] = []
        self._lexemes: Final[dict[str, _Lexeme]] = {}
        for node in self._rules.values():
            self._collect(node)
        self._masks: Final = _masks(self._chars)
        self._follow_bits: Final = [_union(1 << place for place in places) for places in self._follow]
        self._begins: Final = dict.fromkeys(self._rules, 0)
        self._may_be_empty: Final = dict.fromkeys(self._rules, False)
        self._after: Final = dict.fromkeys(self._rules, 0)
        self._after_lexeme: Final = dict.fromkeys(self._lexemes, 0)

    def lark(self) -> str:
        """The grammar. Raises `ValueError` if it would not mean the same."""
        self._settle()
        for expression, extensions in self._extensions().items():
            if self._after_lexeme[expression] & extensions:
                raise ValueError(
                    "the grammar in GBNF cannot be read in pieces: a character may go on with one part of it or begin "
                    "the next part. Write it in Lark's notation"
                )
        lines = [f"start: {self._names[_ROOT]}"]
        lines += [f"{self._names[name]}: {self._written(node)}" for name, node in self._rules.items()]
        return "\n".join(lines) + "\n"

    def _written(self, node: _Node) -> str:
        expression = self._expressions.for_lexeme(node)
        if expression is not None:
            if not expression:
                return '""'
            return f"(/{expression}/)?" if self._lexemes[expression].may_be_empty else f"/{expression}/"
        match node:
            case _Ref(rule):
                return self._names[rule]
            case _Sequence(items):
                return " ".join(map(self._grouped, items))
            case _Choice(options):
                return " | ".join(map(self._written, options))
            case _Repeat(item, least, most):
                return f"({self._written(item)}){_count(least, most)}"
            case _Chars():
                raise AssertionError("a character has an expression")

    def _grouped(self, node: _Node) -> str:
        is_choice = isinstance(node, _Choice) and self._expressions.for_lexeme(node) is None
        return f"({self._written(node)})" if is_choice else self._written(node)

    # ---------------------------------------------------------------------------------------------------- lexemes

    def _collect(self, node: _Node) -> None:
        """Note the lexemes of a node of a rule."""
        expression = self._expressions.for_lexeme(node)
        if expression is not None:
            if expression not in self._lexemes:
                self._lexemes[expression] = self._lexeme(node)
            return
        match node:
            case _Sequence(inner) | _Choice(inner):
                for each in inner:
                    self._collect(each)
            case _Repeat(item):
                self._collect(item)
            case _:
                pass

    def _lexeme(self, node: _Node) -> _Lexeme:
        match node:
            case _Chars(ranges):
                if len(self._chars) >= _MOST_POSITIONS:
                    raise ValueError(f"the parts of the grammar in GBNF have more than {_MOST_POSITIONS} characters")
                self._chars.append(ranges)
                self._follow.append(set())
                place = len(self._chars) - 1
                return _Lexeme({place}, {place}, may_be_empty=False)
            case _Ref(rule):
                return self._lexeme(self._all[rule])
            case _Choice(options):
                each = [*map(self._lexeme, options)]
                first, last = (
                    set[int]().union(*(one.first for one in each)),
                    set[int]().union(*(one.last for one in each)),
                )
                return _Lexeme(first, last, may_be_empty=any(one.may_be_empty for one in each))
            case _Sequence(items):
                return self._in_a_row([*map(self._lexeme, items)])
            case _Repeat(item, least, most):
                inner = self._lexeme(item)
                if most is None or most > 1:
                    self._link(inner.last, inner.first)
                return _Lexeme(inner.first, inner.last, may_be_empty=inner.may_be_empty or least == 0)

    def _in_a_row(self, items: Sequence[_Lexeme]) -> _Lexeme:
        whole = _Lexeme(set(), set(), may_be_empty=True)
        for item in items:
            self._link(whole.last, item.first)
            first = whole.first | item.first if whole.may_be_empty else whole.first
            last = whole.last | item.last if item.may_be_empty else item.last
            whole = _Lexeme(first, last, may_be_empty=whole.may_be_empty and item.may_be_empty)
        return whole

    def _link(self, ends: set[int], begins: set[int]) -> None:
        for place in ends:
            self._follow[place] |= begins

    def _extensions(self) -> dict[str, int]:
        """For each lexeme the characters by which a whole text of it may become the beginning of a longer text of any.

        All lexemes are read at the same time. `beside` has, for each position that one of them may have reached, the
        positions that others, or the same, may have reached by the same text.
        """
        masks = self._masks
        alike = [_union(1 << y for y, other in enumerate(masks) if other & mask) for mask in masks]
        begins = _union(1 << place for lexeme in self._lexemes.values() for place in lexeme.first)
        beside = {place: begins & alike[place] for place in _places(begins)}
        waiting = [*beside]
        while waiting:
            place = waiting.pop()
            reached = self._next(beside[place])
            for following in self._follow[place]:
                more = beside.get(following, 0) | (reached & alike[following])
                if more != beside.get(following, 0):
                    beside[following] = more
                    waiting.append(following)
        return {
            expression: _union(masks[y] for place in lexeme.last for y in _places(self._next(beside.get(place, 0))))
            for expression, lexeme in self._lexemes.items()
        }

    def _next(self, places: int) -> int:
        """The positions that may follow these."""
        return _union(self._follow_bits[place] for place in _places(places))

    # ------------------------------------------------------------------------------------------ what follows what

    def _settle(self) -> None:
        """Find which characters begin each rule, and which may follow each rule and each lexeme."""
        while True:
            before = (*self._begins.values(), *self._may_be_empty.values())
            for name, node in self._rules.items():
                self._begins[name], self._may_be_empty[name] = self._begin(node)
            if before == (*self._begins.values(), *self._may_be_empty.values()):
                break
        while True:
            before = (*self._after.values(), *self._after_lexeme.values())
            for name, node in self._rules.items():
                self._pass_on(node, self._after[name])
            if before == (*self._after.values(), *self._after_lexeme.values()):
                break

    def _begin(self, node: _Node) -> tuple[int, bool]:
        """The characters that may begin a node, and whether the node may be empty."""
        expression = self._expressions.for_lexeme(node)
        if expression is not None:
            lexeme = self._lexemes[expression]
            return _union(self._masks[place] for place in lexeme.first), lexeme.may_be_empty
        match node:
            case _Ref(rule):
                return self._begins[rule], self._may_be_empty[rule]
            case _Choice(options):
                each = [*map(self._begin, options)]
                return _union(begins for begins, _ in each), any(may_be_empty for _, may_be_empty in each)
            case _Repeat(item, least, _):
                begins, may_be_empty = self._begin(item)
                return begins, may_be_empty or least == 0
            case _Sequence(items):
                begins, may_be_empty = 0, True
                for item in items:
                    more, item_may_be_empty = self._begin(item)
                    begins |= more if may_be_empty else 0
                    may_be_empty = may_be_empty and item_may_be_empty
                return begins, may_be_empty
            case _Chars():
                raise AssertionError("a character has an expression")

    def _pass_on(self, node: _Node, after: int) -> None:
        """Note that the characters `after` may follow a node."""
        expression = self._expressions.for_lexeme(node)
        if expression is not None:
            self._after_lexeme[expression] |= after
            return
        match node:
            case _Ref(rule):
                self._after[rule] |= after
            case _Choice(options):
                for option in options:
                    self._pass_on(option, after)
            case _Repeat(item, _, most):
                self._pass_on(item, after | (self._begin(item)[0] if most is None or most > 1 else 0))
            case _Sequence(items):
                for item in reversed(items):
                    self._pass_on(item, after)
                    begins, may_be_empty = self._begin(item)
                    after = begins | (after if may_be_empty else 0)
            case _Chars():
                raise AssertionError("a character has an expression")


def _masks(classes: Sequence[tuple[tuple[int, int], ...]]) -> list[int]:
    """A set of bits for each class of characters. Two classes with a bit in common have a character in common."""
    edges = sorted({edge for ranges in classes for first, last in ranges for edge in (first, last + 1)})
    bits = {first: 1 << number for number, (first, _) in enumerate(pairwise(edges))}
    return [
        _union(bit for edge, bit in bits.items() if any(first <= edge <= last for first, last in ranges))
        for ranges in classes
    ]


def _places(bits: int) -> Iterator[int]:
    """The numbers of the bits that are set."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def _union(masks: Iterable[int]) -> int:
    union = 0
    for mask in masks:
        union |= mask
    return union
