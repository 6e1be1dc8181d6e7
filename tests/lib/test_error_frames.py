"""Errors that cross the border of a process are the same errors there."""

import inspect
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib import errors
from neuron_lib.error_frames import ErrorFrame, from_frame, to_frame
from neuron_lib.errors import (
    AlreadyLoaded,
    EngineDead,
    EngineFailed,
    InvalidGrammar,
    InvalidRequest,
    KvWaitExpired,
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
    ShuttingDown,
    SourceUnavailable,
    SuspectRequest,
    UnloadFailed,
    UnsupportedCapability,
    UpstreamRefused,
    WrongModality,
)

CLASSES = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, NeuronError)}
TEXT = st.text(max_size=300)
SHORT = st.text(max_size=20)
COUNT = st.integers(0, 2**53)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False) | SHORT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SHORT, inner, max_size=3),
    max_leaves=6,
)
RESERVED = {"self", "message", "model_id", "param", "summary", "code", "reason", "retry_after_s", "kind", "status"}
NAMES = SHORT.filter(lambda name: name not in RESERVED)
FIELDS: st.SearchStrategy[dict[str, Any]] = st.dictionaries(NAMES, VALUES, max_size=3)
LONG = st.sampled_from(["", "x" * 990, "x" * 1010, "x" * 5000]).flatmap(lambda end: TEXT.map(lambda text: text + end))


def with_fields(
    class_: Callable[..., NeuronError], **arguments: st.SearchStrategy[Any]
) -> st.SearchStrategy[NeuronError]:
    return st.builds(
        lambda message, fields, given: class_(message, **given, **fields),
        LONG,
        FIELDS,
        st.fixed_dictionaries(arguments),
    )


PARAM = {"param": st.none() | TEXT, "summary": st.none() | TEXT}
WAYS: dict[type[NeuronError], st.SearchStrategy[NeuronError]] = {
    InvalidRequest: with_fields(InvalidRequest, **PARAM),
    InvalidGrammar: with_fields(InvalidGrammar, **PARAM),
    PromptTooLong: st.builds(PromptTooLong, prompt_tokens=COUNT, limit=COUNT),
    UnsupportedCapability: with_fields(UnsupportedCapability, code=SHORT) | st.builds(UnsupportedCapability, TEXT),
    WrongModality: st.builds(WrongModality, TEXT, st.lists(SHORT).map(tuple)),
    SuspectRequest: st.builds(SuspectRequest, TEXT, TEXT, TEXT),
    ModelNotLoaded: st.builds(ModelNotLoaded, TEXT, st.none() | LONG),
    ModelLoading: st.builds(ModelLoading, TEXT, LONG, stage=SHORT, retry_after_s=COUNT),
    Overloaded: with_fields(Overloaded, reason=st.sampled_from(OverloadReason), retry_after_s=COUNT),
    KvWaitExpired: with_fields(KvWaitExpired, reason=st.sampled_from(OverloadReason), retry_after_s=COUNT),
    ShuttingDown: st.builds(ShuttingDown),
    NoHarness: st.builds(NoHarness),
    AlreadyLoaded: st.builds(AlreadyLoaded, TEXT),
    PreflightFailed: st.builds(
        lambda kind, message, fields: PreflightFailed(kind, message, model_id="o/n", **fields),
        st.sampled_from(PreflightKind),
        LONG,
        FIELDS,
    ),
    UnloadFailed: with_fields(UnloadFailed, model_id=TEXT),
    SourceUnavailable: with_fields(SourceUnavailable, model_id=TEXT, retry_after_s=st.none() | COUNT),
    EngineDead: st.builds(EngineDead, TEXT, LONG),
    UpstreamRefused: with_fields(UpstreamRefused, status=st.integers(100, 599)),
    RequestLoop: st.builds(RequestLoop, COUNT),
}
"""How to make an error of each class whose arguments are not a message and fields."""
ERRORS = st.one_of(
    [
        WAYS[class_] if class_ in WAYS else with_fields(class_)
        for class_ in sorted(CLASSES, key=lambda class_: class_.code)
    ]
)
FORMATS = {"json": msgspec.json, "msgpack": msgspec.msgpack}


def sent(error: NeuronError, form: str = "json", unknown: type[NeuronError] = EngineFailed) -> NeuronError:
    form_ = FORMATS[form]
    return from_frame(form_.decode(form_.encode(to_frame(error)), type=ErrorFrame), unknown=unknown)


@given(ERRORS, st.sampled_from(sorted(FORMATS)))
def test_an_error_of_any_class_is_the_same_on_the_other_side(error: NeuronError, form: str) -> None:
    found = sent(error, form)
    assert type(found) is type(error)
    assert vars(found) == vars(error)
    assert (str(found), found.code, found.log_message) == (str(error), error.code, error.log_message)
    assert getattr(found, "retry_after_s", None) == getattr(error, "retry_after_s", None)


@given(ERRORS)
def test_every_attribute_of_an_error_is_declared_by_its_class(error: NeuronError) -> None:
    declared = {name for class_ in type(error).__mro__ for name in inspect.get_annotations(class_)}
    assert set(vars(error)) <= declared


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("half \ud800", "half \\ud800"),
        (1 << 70, str(1 << 70)),
        (1 << 9999, "an integer of 10000 bits"),
        (float("inf"), "inf"),
        (("a", ("b",)), ["a", ["b"]]),
        ({1: "a"}, {"1": "a"}),
        (PreflightKind.EMPTY_REPO, "empty_repo"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("form", FORMATS)
def test_what_no_frame_can_hold_becomes_text(value: object, shown: object, form: str) -> None:
    assert sent(LoadFailed("m", value=value), form).fields == {"value": shown}


@pytest.mark.parametrize("form", FORMATS)
def test_half_a_surrogate_pair_is_spelled_out_wherever_it_is(form: str) -> None:
    found = sent(InvalidRequest("a \ud800", param="b \ud800"), form)
    assert isinstance(found, InvalidRequest)
    assert (found.message, found.param) == ("a \\ud800", "b \\ud800")


def test_an_error_of_a_class_of_somebody_else_is_the_nearest_of_ours() -> None:
    class DiskOnFire(SourceUnavailable):
        code = "disk_on_fire"

    found = sent(DiskOnFire("smoke", model_id="o/n", retry_after_s=7))
    assert type(found) is SourceUnavailable
    assert (found.message, found.retry_after_s) == ("smoke", 7)


@pytest.mark.parametrize("unknown", [LoadFailed, EngineFailed])
def test_a_code_that_is_not_known_is_a_clear_error_of_the_kind_that_the_caller_chose(
    unknown: type[NeuronError],
) -> None:
    found = from_frame(ErrorFrame(code="of_a_newer_version", message="m", fields={"message": 1}), unknown=unknown)
    assert type(found) is unknown
    assert found.message == "m (an error of an unknown kind: 'of_a_newer_version')"
    assert found.fields == {"message": 1}


@pytest.mark.parametrize("attributes", [{}, {"kind": "nonsense", "model_id": "o/n"}, {"kind": "gated_repo"}])
def test_an_error_that_lacks_something_is_not_of_its_class(attributes: dict[str, Any]) -> None:
    frame = ErrorFrame(code=PreflightFailed.code, message="m", attributes=attributes)
    found = from_frame(frame, unknown=LoadFailed)
    assert type(found) is LoadFailed
    assert found.message == "m (an incomplete error of the kind 'preflight_failed')"


def test_a_message_that_nobody_has_cut_is_cut() -> None:
    frame = ErrorFrame(code=LoadFailed.code, message="x" * 100_000)
    assert len(from_frame(frame, unknown=NeuronError).message) < 1100
