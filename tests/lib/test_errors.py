import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib import errors
from neuron_lib.errors import (
    AlreadyLoaded,
    EngineDead,
    InvalidGrammar,
    InvalidModelId,
    InvalidRequest,
    KvWaitExpired,
    LoadCancelled,
    LoadFailed,
    ModelLoading,
    ModelNotLoaded,
    NeuronError,
    NoHarness,
    Overloaded,
    OverloadReason,
    PreflightFailed,
    PreflightKind,
    PromptTooLong,
    RequestLoop,
    RequestRejected,
    ShuttingDown,
    SourceUnavailable,
    SuspectRequest,
    TemplateFailed,
    TooLargeForKv,
    UnknownHarness,
    UnknownSource,
    UnsupportedCapability,
    UpstreamRefused,
    WrongModality,
    cause_chain,
    first_leaf,
)

CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, NeuronError)]

ALL_ERRORS: list[NeuronError] = [
    PromptTooLong(prompt_tokens=5000, limit=4095),
    ModelNotLoaded("o/a"),
    ModelLoading("o/a", "it is being loaded", stage="loading", retry_after_s=5),
    ShuttingDown(),
    Overloaded("full", reason=OverloadReason.QUEUE_FULL, retry_after_s=4),
    InvalidRequest("too hot", param="temperature"),
    AlreadyLoaded("o/a"),
    LoadCancelled("the load of 'o/a' was cancelled"),
    PreflightFailed(PreflightKind.QUANT_NOT_FOUND, "no such quant", model_id="o/a", available=["q4_0"]),
    SourceUnavailable("the hub is silent", model_id="o/a"),
    EngineDead("o/a", "killed by SIGKILL"),
    SuspectRequest("o/a", "killed by SIGSEGV", "killed by SIGABRT"),
    WrongModality("o/a", ("embeddings",)),
]


def test_every_error_has_a_code_and_only_one_class_has_it() -> None:
    codes = [error.code for error in CLASSES]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_every_error_stands_in_the_tree_that_the_module_draws(error: type[NeuronError]) -> None:
    assert error.__name__ in str(errors.__doc__)
    assert inspect.getdoc(error)


@pytest.mark.parametrize(
    ("parent", "children"),
    [
        (
            RequestRejected,
            {
                NoHarness,
                InvalidRequest,
                InvalidGrammar,
                PromptTooLong,
                SuspectRequest,
                TemplateFailed,
                UnsupportedCapability,
                ModelLoading,
                WrongModality,
                ModelNotLoaded,
                Overloaded,
                KvWaitExpired,
                TooLargeForKv,
                ShuttingDown,
                UpstreamRefused,
                RequestLoop,
            },
        ),
        (LoadFailed, {AlreadyLoaded, LoadCancelled, UnknownHarness, InvalidModelId, UnknownSource, PreflightFailed}),
    ],
    ids=["RequestRejected", "LoadFailed"],
)
def test_a_class_says_what_to_do_next(parent: type[NeuronError], children: set[type[NeuronError]]) -> None:
    assert {error for error in CLASSES if issubclass(error, parent)} == children | {parent}


@pytest.mark.parametrize("error", ALL_ERRORS, ids=lambda error: type(error).__name__)
def test_only_a_resident_model_is_called_already_loaded(error: NeuronError) -> None:
    assert ("already loaded" in str(error)) is isinstance(error, AlreadyLoaded)
    assert str(error) == error.message


def test_a_prompt_that_is_too_long_says_so_in_the_words_that_clients_look_for() -> None:
    error = PromptTooLong(prompt_tokens=5000, limit=4095)
    assert "maximum context length is 4095 tokens" in error.message
    assert error.fields == {"prompt_len": 5000, "max": 4095}
    assert error.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("error", "retry_after_s"),
    [
        (ModelNotLoaded("o/a"), None),
        (ModelLoading("o/a", "it is being loaded", stage="loading", retry_after_s=5), 5),
        (PromptTooLong(prompt_tokens=2, limit=1), None),
        (InvalidRequest("no"), None),
        (ShuttingDown(), 15),
        (Overloaded("full", reason=OverloadReason.QUEUE_FULL, retry_after_s=4), 4),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, NeuronError) else "",
)
def test_a_time_to_retry_is_given_only_where_retrying_can_help(
    error: RequestRejected, retry_after_s: int | None
) -> None:
    assert error.retry_after_s == retry_after_s


def test_fields_hold_the_numbers_behind_the_message() -> None:
    error = PreflightFailed(PreflightKind.QUANT_NOT_FOUND, "no such quant", model_id="o/a", available=["q4_0"])
    assert error.fields == {"model_id": "o/a", "available": ["q4_0"]}
    assert error.kind is PreflightKind.QUANT_NOT_FOUND


# ------------------------------------------------------------------------------------------------------ cause_chain


def caused(error: Exception, cause: BaseException | None) -> Exception:
    error.__cause__ = cause
    return error


def raised_while(earlier: Exception, later: Exception, *, suppressed: bool = False) -> Exception:
    try:
        try:
            raise earlier
        except type(earlier):
            if suppressed:
                raise later from None
            raise later  # noqa: B904 - the implicit context is the point
    except type(later) as error:
        return error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (LoadFailed("no file"), "no file"),
        (ValueError("bad"), "ValueError: bad"),
        (ValueError(), "ValueError"),
        (KeyError("rope"), "KeyError: 'rope'"),
        (LoadFailed(""), "LoadFailed"),
        (caused(LoadFailed("a"), caused(OSError("b"), ValueError("c"))), "a: OSError: b: ValueError: c"),
        (raised_while(ValueError("first"), LoadFailed("second")), "second: ValueError: first"),
        (raised_while(ValueError("first"), LoadFailed("second"), suppressed=True), "second"),
        (caused(LoadFailed("same"), LoadFailed("same")), "same"),
        (caused(LoadFailed("m.gguf: it is cut"), ValueError("it is cut")), "m.gguf: it is cut"),
        (caused(LoadFailed("it is cut off"), ValueError("it is cut")), "it is cut off: ValueError: it is cut"),
        (caused(LoadFailed("/f: No such file"), FileNotFoundError(2, "No such file", "/f")), "/f: No such file"),
        (caused(LoadFailed("a"), FileNotFoundError(2, "No such file")), "a: FileNotFoundError: [Errno 2] No such file"),
        (caused(LoadFailed("a: b"), caused(ValueError("b"), OSError("c"))), "a: b: OSError: c"),
        (ExceptionGroup("tasks", [ExceptionGroup("inner", [LoadFailed("a")]), ValueError("b")]), "a"),
        (caused(LoadFailed("a"), ExceptionGroup("tasks", [ValueError("b")])), "a: ValueError: b"),
        (LoadFailed("first line\n\n  second\tline\r\n"), "first line second line"),
    ],
    ids=[
        "ours",
        "foreign",
        "without text",
        "text that needs its type",
        "ours without text",
        "causes",
        "context",
        "suppressed context",
        "repetition",
        "quotation",
        "no quotation",
        "quotation of the system's words",
        "no quotation of the system's words",
        "quotation with a cause",
        "groups",
        "group as cause",
        "several lines",
    ],
)
def test_a_chain_is_one_line_from_the_outermost_to_the_innermost(error: Exception, line: str) -> None:
    assert cause_chain(error) == line


def test_a_chain_that_bites_its_tail_ends() -> None:
    first, second = LoadFailed("a"), LoadFailed("b")
    first.__cause__, second.__cause__ = second, first
    assert cause_chain(first) == "a: b"


@given(st.lists(st.tuples(st.booleans(), st.text(max_size=10)), min_size=1, max_size=6))
def test_a_chain_never_fails_and_never_breaks_the_line(texts: list[tuple[bool, str]]) -> None:
    error: Exception | None = None
    for is_ours, text in texts:
        error = caused(LoadFailed(text) if is_ours else ValueError(text), error)
    assert error is not None
    assert len(cause_chain(error).splitlines()) == 1


def test_the_first_leaf_of_a_group_is_no_group() -> None:
    leaf = ValueError("a")
    assert first_leaf(ExceptionGroup("", [ExceptionGroup("", [leaf]), KeyError()])) is leaf
