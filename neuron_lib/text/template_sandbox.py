"""The Jinja environment of chat templates: what a template may call, and how large its values may be.

A template is foreign code. The caller can stop a rendering after some time, but only between two steps of Python. One
call into C may fill the memory before that. So two kinds of operations are checked before they run. One can make a
large value from small values. The other takes long on a value that contains itself many times. The size of all values
is taken from the `Allowance` of the rendering.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import wraps
from itertools import islice
from types import BuiltinMethodType, MethodType
from typing import Any, Final, NoReturn

from jinja2 import TemplateError, nodes, pass_context, pass_eval_context
from jinja2.compiler import CodeGenerator, Frame, operators
from jinja2.ext import Extension
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, markup_join, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from neuron_lib.text.template_limits import (
    MAX_ITEMS,
    MAX_TEXT_CHARS,
    TooLarge,
    charge,
    check_format,
    check_group,
    check_indent,
    check_join,
    check_number,
    check_precision,
    check_replacement,
    check_start,
    check_tabs,
    check_width,
    is_affordable,
    joined_chars,
    weigh,
)

__all__ = ("Sandbox", "raise_exception")

_MAX_INDENT: Final = 16
_MAX_SEPARATOR_CHARS: Final = 16

_REMOVED_GLOBALS: Final = ("cycler", "joiner", "lipsum")
_REMOVED_FILTERS: Final = (
    "filesizeformat",
    "format",
    "pprint",
    "striptags",
    "urlize",
    "wordcount",
    "wordwrap",
    "xmlattr",
)
"""No chat template needs these. Their time or their output can grow far beyond their input."""

_SHALLOW_FILTERS: Final = frozenset(
    """
    attr batch count d default first items join last length list map random reject rejectattr reverse select
    selectattr slice tojson
    """.split()  # noqa: SIM905 - easier to read than one line for each
)
"""These look only at the outermost items, or check their input themselves."""

_TEXT_METHODS: Final = frozenset(
    """
    capitalize casefold center count endswith escape expandtabs find format format_map index isalnum isalpha isascii
    isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip
    partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines
    startswith strip swapcase title unescape upper zfill
    """.split()  # noqa: SIM905 - easier to read than one line for each
)
_NUMBER_METHODS: Final = frozenset(("as_integer_ratio", "bit_length", "is_integer"))

_COMPARING_TESTS: Final = frozenset(
    ("!=", "<", "<=", "==", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "in", "le", "lessthan", "lt", "ne")
)

_JINJA_ARGUMENTS: Final = frozenset(("_block_vars", "_loop_vars"))
"""The arguments that Jinja itself adds to the calls of a template."""


def raise_exception(message: object) -> NoReturn:
    """Fail with `message`. Templates call this to refuse messages."""
    weigh(message)
    raise TemplateError(str(message))


class _Namespace(Namespace):
    """A namespace whose `repr` does not write its values, which may be large."""

    def __repr__(self) -> str:
        return "<Namespace>"


@pass_context
def _finalize(_context: Context, value: Any) -> Any:
    """Checks every value that a template writes.

    It takes the context so that Jinja does not call it for constants while the template is compiled.
    """
    if type(value) is not str:
        weigh(value)
    return value


class _GenerationBlock(Extension):
    """`{% generation %}` marks the part that training counts as the reply. For a prompt the block is its content."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Code(CodeGenerator):
    """Generates Python code for a template, with checks where Jinja's sandbox has no hook."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        self.write("environment.join_texts(context.eval_ctx, (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        sides = (node.expr, *(operand.expr for operand in node.ops))
        # A comparison with a constant of one word cannot take long.
        check = "(" if any(isinstance(side, nodes.Const) for side in sides) else "environment.weighed("
        self.write("(" + check)
        self.visit(node.expr, frame)
        self.write(")")
        for operand in node.ops:
            self.write(f" {operators[operand.op]} {check}")
            self.visit(operand.expr, frame)
            self.write(")")
        self.write(")")

    def visit_List(self, node: nodes.List, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        self.write("environment._charged(")
        super().visit_List(node, frame)
        self.write(")")

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        is_value = node.ctx == "load"  # in the other cases these are the targets of an assignment
        self.write("environment._charged(" if is_value else "")
        super().visit_Tuple(node, frame)
        self.write(")" if is_value else "")

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        self.write("environment._charged({")
        for item in node.items:
            self.write("environment.weighed(")
            self.visit(item.key, frame)
            self.write("): ")
            self.visit(item.value, frame)
            self.write(", ")
        self.write("})")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        is_slice = isinstance(node.arg, nodes.Slice)
        self.write("environment._charged(" if is_slice else "(")
        super().visit_Getitem(node, frame)
        self.write(")")


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one template (see the module). It has no loader, so a template cannot include another one."""

    code_generator_class: type[CodeGenerator] = _Code
    _charged = staticmethod(charge)
    intercepted_binops: frozenset[str] = frozenset({"+", "*", "**", "%"})

    def __init__(self, *, is_none: Callable[[object], bool]) -> None:
        """`is_none` implements the test of that name."""
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=("jinja2.ext.loopcontrols", _GenerationBlock),
            finalize=_finalize,
            optimized=False,  # constants that are computed during compilation are not checked
        )
        for name in _REMOVED_GLOBALS:
            del self.globals[name]
        for name in _REMOVED_FILTERS:
            del self.filters[name]
        self.globals["namespace"] = _Namespace
        self.filters |= {"join": _join, "tojson": _tojson}
        self.tests["none"] = is_none
        filters: Mapping[str, Any] = self.filters
        tests: Mapping[str, Any] = self.tests
        self.filters |= {
            name: _counted(function, is_deep=name not in _SHALLOW_FILTERS, check=_FILTER_CHECKS.get(name))
            for name, function in filters.items()
        }
        self.tests |= {name: _counted(function, is_deep=name in _COMPARING_TESTS) for name, function in tests.items()}

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        """Join the pieces of a macro, a call block or a `set` block, with the length checked first."""
        pieces = list(pieces)
        if sum(map(len, pieces)) > MAX_TEXT_CHARS:
            raise TooLarge("a block")
        joined: str = charge("".join(pieces))
        return joined

    @staticmethod
    def weighed(value: Any) -> Any:
        """Return `value` if it is not too large to be compared. Raises `TooLarge`."""
        weigh(value, what="a comparison")
        return value

    @staticmethod
    def join_texts(context: EvalContext, parts: tuple[Any, ...]) -> str:
        """The operator `~`."""
        weigh(parts)
        if joined_chars(parts) > MAX_TEXT_CHARS:
            raise TooLarge("~")
        joined: str = charge((markup_join if context.autoescape else str_join)(parts))
        return joined

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str):
            return attr in _TEXT_METHODS
        if isinstance(obj, bytes | bytearray | memoryview):
            return False
        if isinstance(obj, int | float) and callable(value):
            return attr in _NUMBER_METHODS
        return super().is_safe_attribute(obj, attr, value)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(argument, tuple):
            weigh(argument, what="a key")
        return super().getitem(obj, argument)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapper = super().wrap_str_format(value)
        if wrapper is None:
            return None

        def bounded(*args: Any, **kwargs: Any) -> str:
            check_format(value.__self__, (args, kwargs))
            text: str = charge(wrapper(*args, **kwargs))
            return text

        return bounded

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        if isinstance(obj, BuiltinMethodType | MethodType):
            if args and obj.__name__ == "join" and isinstance(args[0], Iterator):
                args = (list(islice(args[0], MAX_ITEMS + 1)), *args[1:])
            _check_method(obj, args, kwargs)
        return charge(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if not is_affordable(operator, left, right):
            raise TooLarge(operator)
        return charge(super().call_binop(context, operator, left, right))


def _check_method(method: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise `TooLarge` for a call that makes a too large text or compares too large values."""
    owner = method.__self__
    if isinstance(owner, str):
        check = _METHOD_CHECKS.get(method.__name__)
        if check is not None:
            check(owner, *args, **{name: value for name, value in kwargs.items() if name not in _JINJA_ARGUMENTS})
    elif isinstance(owner, list | tuple | Mapping | LoopContext):
        for value in args:
            if isinstance(value, Collection) and not isinstance(value, str):
                weigh(value, what="a comparison")
                weigh(owner, what="a comparison")


_METHOD_CHECKS: Final[Mapping[str, Callable[..., None]]] = {
    "center": check_width,
    "expandtabs": check_tabs,
    "join": check_join,
    "ljust": check_width,
    "replace": check_replacement,
    "rjust": check_width,
    "zfill": check_width,
}
"""The methods of a text whose result can be much longer than their input."""


def _counted(
    function: Callable[..., Any], *, is_deep: bool, check: Callable[..., None] | None = None
) -> Callable[..., Any]:
    """The filter or test, with its result charged to the allowance, and with its arguments weighed first if it
    `is_deep`.

    `check` gets the arguments of the filter and raises `TooLarge` if the result would be too large.
    """
    first = 1 if hasattr(function, "jinja_pass_arg") else 0  # Jinja itself passes the first argument

    @wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        if is_deep:
            for value in (*args[first:], *kwargs.values()):
                weigh(value)
        if check is not None:
            check(*args[first:], **kwargs)
        return charge(function(*args, **kwargs))

    return counted


_FILTER_CHECKS: Final[Mapping[str, Callable[..., None]]] = {
    "batch": check_group,
    "center": check_width,
    "indent": check_indent,
    "int": check_number,
    "replace": lambda s, old="", new="", count=-1: check_replacement(str(s), str(old), str(new), count),
    "round": check_precision,
    "slice": check_group,
    "sum": check_start,
}
"""The filters whose result can be much larger than their input."""


@pass_eval_context
def _join(eval_ctx: EvalContext, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    pieces = list(islice(value, MAX_ITEMS + 1))
    if attribute is not None:
        pieces = list(map(make_attrgetter(eval_ctx.environment, attribute), pieces))
    weigh(pieces, what="join")
    check_join(str(d), pieces)
    joined: str = FILTERS["join"](eval_ctx, pieces, d)
    return joined


def _tojson(
    value: object,
    *,
    indent: int | None = None,
    ensure_ascii: bool = False,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as models were trained on it. Jinja's own filter escapes characters for HTML."""
    if indent is not None and not 0 <= indent <= _MAX_INDENT:
        raise_exception(f"tojson: an indent of {indent} is not within 0 and {_MAX_INDENT}")
    if separators is not None and any(len(separator) > _MAX_SEPARATOR_CHARS for separator in separators):
        raise_exception(f"tojson: a separator has more than {_MAX_SEPARATOR_CHARS} characters")
    weigh(value, what="tojson", chars_per_level=indent or 0)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
