"""Binds a reply that may reason and call tools: which tokens may come next, at every point of the reply. Pure.

A reply has stages. Most of them are free, and asking a free stage costs next to nothing:

    reasoning ──► answer ──► call ──► answer ──► …
        │         (free)    (bound)   (free)
        └─ at the end of its budget the closing marker is forced

Rules, such as the grammar of the tools' calls, bind a reply from the text on that opens a call, or from the beginning
of the answer. Reasoning may come before an answer that is bound.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, Self

import numpy as np

from neuron_lib.sampling.filters import Scores
from neuron_lib.sampling.sampler import Constraint

__all__ = ("Binding", "Mark", "Plan", "Reasoning", "Rules")

_MOST_SPACE: Final = 2
"""Tokens of white space that may stand between reasoning and an answer that is bound from its beginning."""


class Rules(Constraint, Protocol):
    """A constraint of which copies can be made."""

    @property
    def is_satisfied(self) -> bool:
        """Whether the text so far may be the whole text."""
        ...

    def copy(self) -> Self:
        """The same in the same state, independent of this one."""
        ...

    def after(self, text: bytes) -> Self | None:
        """A copy that has read `text`; None if the text is not allowed."""
        ...


@dataclass(slots=True, frozen=True)
class Mark:
    """A text with a meaning, such as the opening of a call. With `token` only that token has the meaning.

    A mark that `is_first` has its meaning only if nothing but white space was answered before it.
    """

    text: bytes
    token: int | None = None
    is_first: bool = False


@dataclass(slots=True, frozen=True, kw_only=True)
class Reasoning:
    """The marks around reasoning. After `budget` tokens of reasoning, of all its blocks together, `close` is forced."""

    open: Mark
    close: Mark
    budget: int | None = None


@dataclass(slots=True, frozen=True, kw_only=True)
class Plan:
    """How the replies to one request are bound. Immutable; `begin` makes the binding of each reply.

    - `rules`: what binds the reply, None if only the budget of its reasoning does. They bind it from one of the
      `openings` on, which they include, or all of the answer if `binds_answer`.
    - `is_repeated`: whether the reply may go on behind the text of the rules. If the answer was free before the
      opening, it is free again.
    - `most_calls`: the reply ends when its text has satisfied the rules so often, each time anew; None sets no bound.
    - `starts_in_reasoning`: whether the prompt has opened the reasoning.
    - `piece`: the bytes of a token as they appear in the text of a reply. `spell`: the tokens of a text.
    - `eog`: the tokens that end a reply.
    """

    piece: Callable[[int], bytes]
    spell: Callable[[str], Sequence[int]]
    eog: frozenset[int]
    rules: Rules | None = None
    openings: tuple[Mark, ...] = ()
    binds_answer: bool = False
    is_repeated: bool = True
    most_calls: int | None = None
    reasoning: Reasoning | None = None
    starts_in_reasoning: bool = False
    in_answer: "_Marks" = field(init=False, repr=False)
    in_text: "_Marks" = field(init=False, repr=False)
    in_reasoning: "_Marks" = field(init=False, repr=False)
    """The marks that have a meaning at the beginning of an answer, later in it, and in reasoning."""

    def __post_init__(self) -> None:
        later = tuple(mark for mark in self.openings if not mark.is_first)
        opens = () if self.reasoning is None else (self.reasoning.open,)
        closes = () if self.reasoning is None else (self.reasoning.close,)
        # In reasoning a model may write about a call. Only a token opens a call there.
        by_token = tuple(mark for mark in later if mark.token is not None)
        object.__setattr__(self, "in_answer", _Marks((*self.openings, *opens)))
        object.__setattr__(self, "in_text", _Marks((*later, *opens)))
        object.__setattr__(self, "in_reasoning", _Marks((*by_token, *closes)))

    def begin(self) -> "Binding":
        """The binding of a reply that has no token yet."""
        if self.starts_in_reasoning and self.reasoning is not None:
            return Binding(_InReasoning(self, spent=0))
        return Binding(_answer(self, spent=0, may_reason=True))


class Binding:
    """The state of one reply; a `neuron_lib.sampling.sampler.Constraint`. One thread at a time."""

    __slots__ = ("_stage",)

    def __init__(self, stage: "_Stage") -> None:
        self._stage = stage

    def __repr__(self) -> str:
        return f"<Binding {type(self._stage).__name__.strip('_')}>"

    def allows(self, token: int) -> bool:
        """Whether the token may come next."""
        return self._stage.allows(token)

    def mask(self, row: Scores) -> None:
        """Write minus infinity over the scores of tokens that may not come next, after `allows` has refused one.

        A free stage refuses a token only if it opens a call in a way that the rules do not allow. Then the ways that
        they allow remain, and no other tokens. Behind a call that may be the last one only the end remains: a model
        that wanted neither another call nor the end would have to call again, without end.
        """
        self._stage.mask(row)

    def accept(self, token: int) -> None:
        """Advance by `token`, which must be allowed."""
        self._stage = self._stage.accept(token)

    @property
    def is_complete(self) -> bool:
        """Whether only the end may follow."""
        return self._stage.is_complete


class _Stage(Protocol):
    """A part of a reply. `accept` returns the stage behind the token, which may be the same object."""

    @property
    def is_complete(self) -> bool: ...
    def allows(self, token: int) -> bool: ...
    def mask(self, row: Scores) -> None: ...
    def accept(self, token: int) -> "_Stage": ...


@dataclass(slots=True, frozen=True)
class _Found:
    """A mark that a token completes. `text` is the mark and all that the token has behind it. `begun` is the part of
    the mark before the token.
    """

    mark: Mark
    text: bytes
    begun: bytes = b""

    @property
    def rest(self) -> bytes:
        """What the token has behind the mark."""
        return self.text[len(self.mark.text) :]


class _Marks:
    """Finds marks in a text that comes token by token."""

    __slots__ = ("_by_token", "_firsts", "_longest", "_texts")

    def __init__(self, marks: Sequence[Mark]) -> None:
        self._by_token: Final = {mark.token: _Found(mark, mark.text) for mark in marks if mark.token is not None}
        self._texts: Final = tuple(mark for mark in marks if mark.token is None)
        self._firsts: Final = frozenset(mark.text[0] for mark in self._texts)
        self._longest: Final = max((len(mark.text) for mark in self._texts), default=1)

    def find(self, held: bytes, token: int, piece: bytes) -> _Found | None:
        """The first mark that the token completes. `held` is the text before the token in which a mark may begin."""
        found = self._by_token.get(token)
        if found is not None or not self._firsts or (not held and self._firsts.isdisjoint(piece)):
            return found
        text = held + piece
        hits = [
            (start + len(mark.text), start, mark)
            for mark in self._texts
            if (start := text.find(mark.text)) >= 0 and not (mark.is_first and text[:start].strip())
        ]
        if not hits:
            return None
        _, start, mark = min(hits, key=lambda hit: hit[:2])
        return _Found(mark, text[start:], held[start:])

    def hold(self, held: bytes, piece: bytes) -> bytes:
        """The longest end of the text in which a mark may begin."""
        if not held and self._firsts.isdisjoint(piece):
            return b""
        text = held + piece
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            end = text[-length:]
            if any(mark.text.startswith(end) for mark in self._texts):
                return end
        return b""


def _answer(plan: Plan, *, spent: int, may_reason: bool = False, rest: bytes = b"") -> _Stage:
    """The stage at the beginning of an answer. `spent` tokens were reasoning before it.

    With `may_reason` reasoning may come before an answer that is bound. Without it white space may. `rest` is text
    of the answer that the token before it has brought.
    """
    if plan.rules is None or not plan.binds_answer:
        return _Free(plan, spent=spent, held=rest, is_blank=not rest or rest.isspace())
    # A text behind the closing marker may not be allowed by the rules. Then they bind what follows that text.
    bound = _Bound(plan, plan.rules.after(rest.lstrip()) or plan.rules.copy(), spent=spent)
    if may_reason and plan.reasoning is not None and plan.reasoning.budget != 0:
        mark = plan.reasoning.open
        return _Start(plan, bound, opening=plan.spell(mark.text.decode()) if mark.token is None else (mark.token,))
    return bound if may_reason or rest.strip() else _Start(plan, bound, space=_MOST_SPACE)


def _calling(plan: Plan, found: _Found) -> Rules | None:
    """The rules behind an opening; None if they do not allow what the token has behind the mark."""
    if plan.rules is None:
        return None
    if found.mark.token is None:
        return plan.rules.after(found.text)
    rules = plan.rules.copy()
    if not rules.allows(found.mark.token):
        return None
    rules.accept(found.mark.token)
    return rules


class _Free:
    """An answer, free until a call or reasoning begins."""

    __slots__ = ("_begun", "_held", "_is_blank", "_plan", "_spent")

    is_complete: Final = False

    def __init__(self, plan: Plan, *, spent: int, held: bytes = b"", is_blank: bool = True) -> None:
        """`is_blank` says that nothing but white space was answered so far."""
        self._plan = plan
        self._spent = spent
        self._is_blank = is_blank
        self._held = self._marks.hold(b"", held)
        self._begun: Rules | None = None  # rules behind the beginning of the mark that was refused last

    @property
    def _marks(self) -> _Marks:
        return self._plan.in_answer if self._is_blank else self._plan.in_text

    def allows(self, token: int) -> bool:
        found = self._marks.find(self._held, token, self._plan.piece(token))
        if found is None or found.mark.token is not None or found.mark not in self._plan.openings:
            return True
        if self._plan.rules is None or self._plan.rules.after(found.text) is not None:
            return True
        self._begun = self._plan.rules.after(found.begun)
        return self._begun is None  # rules that do not begin with the mark cannot bind what follows it

    def mask(self, row: Scores) -> None:
        if self._begun is not None:
            self._begun.mask(row)

    def accept(self, token: int) -> _Stage:
        plan, piece = self._plan, self._plan.piece(token)
        found = self._marks.find(self._held, token, piece)
        if found is None:
            text = self._held + piece
            self._held = self._marks.hold(self._held, piece)
            # The mark of which a beginning is held may be one that must come first.
            self._is_blank = self._is_blank and not text[: len(text) - len(self._held)].strip()
            return self
        if found.mark in plan.openings:
            rules = _calling(plan, found)
            if rules is not None:
                return _Bound(plan, rules, spent=self._spent).settled()
            self._held, self._is_blank = b"", False
            return self
        return _InReasoning(plan, spent=self._spent, text=found.rest)


class _InReasoning:
    """Reasoning, free until its budget is spent."""

    __slots__ = ("_held", "_missing", "_plan", "_reasoning", "_spent")

    is_complete: Final = False

    def __init__(self, plan: Plan, *, spent: int, text: bytes = b"") -> None:
        """`spent` tokens were reasoning before. `text` of it has come with the mark that opened it."""
        assert plan.reasoning is not None  # nothing else leads here
        self._plan = plan
        self._reasoning = plan.reasoning
        self._spent = spent
        self._held = plan.in_reasoning.hold(b"", text)
        self._missing = 0  # bytes of a character that is not complete

    def allows(self, token: int) -> bool:
        if self._is_over(token):
            return token == self._closing[0]
        return not (token in self._plan.eog and self._plan.binds_answer)  # else the answer would not come

    def mask(self, row: Scores) -> None:
        if self._is_over(None):
            _keep_only(row, self._closing[0])
        else:
            row[list(self._plan.eog)] = -np.inf

    def accept(self, token: int) -> _Stage:
        plan, piece = self._plan, self._plan.piece(token)
        if self._is_over(token):
            return _Forced(self._closing, then=lambda: _answer(plan, spent=self._spent)).accept(token)
        found = plan.in_reasoning.find(self._held, token, piece)
        if found is None:
            self._spent += 1
            self._held = plan.in_reasoning.hold(self._held, piece)
            self._missing = _missing(self._missing, piece)
            return self
        if found.mark in plan.openings:
            rules = _calling(plan, found)
            return self if rules is None else _Bound(plan, rules, spent=self._spent).settled()
        return _answer(plan, spent=self._spent, rest=found.rest)

    def _is_over(self, token: int | None) -> bool:
        """Whether the reasoning must be closed now. `token` may complete a character first."""
        budget = self._reasoning.budget
        if budget is None or self._spent < budget:
            return False
        piece = b"" if token is None else self._plan.piece(token)
        return not (self._missing and piece and _missing(self._missing, piece) >= 0)

    @property
    def _closing(self) -> Sequence[int]:
        """The tokens that close the reasoning. The beginning of the mark may be written already."""
        close = self._reasoning.close
        if close.token is not None:
            return (close.token,)
        begun = self._held if close.text.startswith(self._held) else b""
        return self._plan.spell(close.text[len(begun) :].decode())


class _Forced:
    """Only these tokens may come, in their order. `then` makes the stage behind them."""

    __slots__ = ("_then", "_tokens")

    is_complete: Final = False

    def __init__(self, tokens: Sequence[int], *, then: Callable[[], _Stage]) -> None:
        self._tokens = tokens
        self._then = then

    def allows(self, token: int) -> bool:
        return token == self._tokens[0]

    def mask(self, row: Scores) -> None:
        _keep_only(row, self._tokens[0])

    def accept(self, token: int) -> _Stage:
        assert token == self._tokens[0]  # the caller has asked
        rest = self._tokens[1:]
        return _Forced(rest, then=self._then) if rest else self._then()


class _Start:
    """The beginning of an answer that is bound: reasoning or white space may come first.

    The text that opens reasoning and the text of the rules may begin alike. Then it is open for a while which it is.
    """

    __slots__ = ("_bound", "_opening", "_plan", "_space")

    is_complete: Final = False

    def __init__(self, plan: Plan, bound: "_Bound | None", *, opening: Sequence[int] = (), space: int = 0) -> None:
        """`bound` is None if the text so far is none of the rules. `opening` are the tokens that are left of the mark
        that opens reasoning, and `space` is how many tokens of white space may come.
        """
        self._plan = plan
        self._bound = bound
        self._opening = opening
        self._space = space

    def allows(self, token: int) -> bool:
        return self._is_bound(token) or self._opens(token) or self._is_space(token)

    def mask(self, row: Scores) -> None:
        opening = [*self._opening[:1]]
        kept = row[opening]
        if self._bound is None:
            row.fill(-np.inf)
            kept[:] = 0.0
        else:
            self._bound.mask(row)
        row[opening] = kept

    def accept(self, token: int) -> _Stage:
        bound = self._bound if self._bound is not None and self._bound.allows(token) else None
        if self._opens(token):
            left = self._opening[1:]
            if not left:
                return _InReasoning(self._plan, spent=0)
            if bound is not None:
                bound.accept(token)  # it stays in its stage, because nothing free may follow
            return _Start(self._plan, bound, opening=left)
        if bound is not None:
            return bound.accept(token)
        return _Start(self._plan, self._bound, opening=self._opening, space=self._space - 1)

    def _is_bound(self, token: int) -> bool:
        return self._bound is not None and self._bound.allows(token)

    def _opens(self, token: int) -> bool:
        return bool(self._opening) and token == self._opening[0]

    def _is_space(self, token: int) -> bool:
        return self._space > 0 and self._plan.piece(token).isspace()


class _Bound:
    """A text that the rules bind."""

    __slots__ = ("_calls", "_free", "_is_loose", "_plan", "_rules", "_spent")

    def __init__(self, plan: Plan, rules: Rules, *, spent: int) -> None:
        self._plan = plan
        self._rules = rules
        self._spent = spent
        # Whether the text may end here. White space behind a text that may end changes nothing about that, even if the
        # rules now expect another call.
        self._is_loose = rules.is_satisfied
        self._calls = 0
        self._free: _Free | None = None  # what answers for a token that the rules refuse and that may come nevertheless

    @property
    def is_complete(self) -> bool:
        most = self._plan.most_calls
        return (self._rules.is_complete and not self._goes_on) or (most is not None and self._calls >= most)

    @property
    def _goes_on(self) -> bool:
        """Whether free text may follow."""
        return self._plan.is_repeated and not self._plan.binds_answer

    def allows(self, token: int) -> bool:
        if self._rules.allows(token):
            return True
        if not self._is_loose:
            return False
        if token in self._plan.eog:
            return True
        if not self._goes_on:
            return False
        self._free = self._free or _Free(self._plan, spent=self._spent)
        return self._free.allows(token)

    def mask(self, row: Scores) -> None:
        if self._is_loose and self._goes_on and self._free is not None:
            self._free.mask(row)
            return
        ends = list(self._plan.eog) if self._is_loose else []
        kept = row[ends]
        if self._calls and np.isfinite(kept).any():
            row.fill(-np.inf)  # the model does not want to call again, so the reply ends
        else:
            self._rules.mask(row)
        row[ends] = kept

    def accept(self, token: int) -> _Stage:
        is_allowed = self._rules.allows(token)
        if token in self._plan.eog:
            if is_allowed:
                self._rules.accept(token)
            return self
        if not is_allowed:
            return _Free(self._plan, spent=self._spent).accept(token)
        was_satisfied = self._rules.is_satisfied
        self._rules.accept(token)
        is_satisfied = self._rules.is_satisfied
        self._calls += is_satisfied and not was_satisfied
        self._is_loose = is_satisfied or (self._is_loose and self._plan.piece(token).isspace())
        return self.settled()

    def settled(self) -> _Stage:
        """The stage after a token: this one, unless the text of the rules is complete and free text may follow."""
        return _Free(self._plan, spent=self._spent) if self._rules.is_complete and self._goes_on else self


def _keep_only(row: Scores, token: int) -> None:
    row.fill(-np.inf)
    row[token] = 0.0


def _missing(missing: int, piece: bytes) -> int:
    """How many bytes a character still lacks behind `piece`, of which `missing` were lacking before; below 0 if the
    piece does not go on with that character.
    """
    for byte in piece:
        if byte & 0xC0 == 0x80:  # it goes on with a character
            if not missing:
                return -1
            missing -= 1
        elif missing:
            return -1
        else:
            missing = 3 if byte >= 0xF0 else 2 if byte >= 0xE0 else 1 if byte >= 0xC0 else 0
    return missing
