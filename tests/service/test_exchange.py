"""The id and the trace that a request brings along: accepted if well-formed, otherwise as if there were none."""

from unittest import TestCase

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import TraceState

from neuron_lib.types import Principal
from neuron_service.exchange import Exchange, TraceParent, exchange_of, parse_trace, proposed_id

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize("value", ["a", "req_011CS", "550e8400-e29b-41d4-a716-446655440000", "|a.b;c=1,", "x" * 128])
def test_an_id_of_visible_characters_is_kept(value: str) -> None:
    assert proposed_id([(b"x-request-id", value.encode())]) == value


@pytest.mark.parametrize("value", [b"", b"x" * 129, b"a b", b"a\tb", b"a\nb", "ä".encode(), b"\xff", b"a\x00"])
def test_any_other_id_counts_as_none(value: bytes) -> None:
    assert proposed_id([(b"x-request-id", value)]) is None


def test_two_ids_count_as_none() -> None:
    assert proposed_id([(b"x-request-id", b"a"), (b"x-request-id", b"b")]) is None


def test_a_request_without_an_id_gets_one_that_no_other_request_has() -> None:
    ids = {Exchange.of("GET", "/", ()).request_id for _ in range(100)}
    assert len(ids) == 100
    assert all(len(each) == 32 and each.isalnum() for each in ids)


def test_an_exchange_begins_once_for_a_scope() -> None:
    scope = {"method": "GET", "path": "/health", "headers": [(b"x-request-id", b"mine")]}
    first = exchange_of(scope)
    assert exchange_of(scope) is first
    assert (first.request_id, first.method, first.path) == ("mine", "GET", "/health")


@pytest.mark.parametrize("flags", ["00", "01", "ff"])
def test_a_trace_is_taken_from_its_header(flags: str) -> None:
    trace = parse_trace([(b"traceparent", f"00-{TRACE}-{PARENT}-{flags}".encode())])
    assert trace == TraceParent(trace_id=TRACE, parent_id=PARENT, is_sampled=flags != "00")


def test_a_later_version_may_have_more_parts() -> None:
    assert parse_trace([(b"traceparent", f"01-{TRACE}-{PARENT}-01-more".encode())]) is not None
    assert parse_trace([(b"traceparent", f"00-{TRACE}-{PARENT}-01-more".encode())]) is None


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE[1:]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-1",
        f" 00-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01\n",
    ],
)
def test_a_malformed_trace_counts_as_none(value: str) -> None:
    assert parse_trace([(b"traceparent", value.encode())]) is None


@given(st.lists(st.tuples(st.sampled_from([b"traceparent", b"tracestate", b"x-request-id"]), st.binary())))
def test_no_header_makes_an_exchange_fail(headers: list[tuple[bytes, bytes]]) -> None:
    exchange = Exchange.of("POST", "/", headers)
    assert exchange.request_id.isascii()
    assert 0 < len(exchange.request_id) <= 128


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ("a=1", "a=1"),
        ("a=1, 7t@b=x y ,,", "a=1, 7t@b=x y ,,"),
        ("a=" + "x" * 511, ""),
        ("a=ä", ""),
        ("a text of a client", ""),
        ("a=1,b", ""),
        ("a=1=2", ""),
    ],
)
def test_the_state_of_a_trace_is_kept_if_it_is_short_and_well_formed(state: str, kept: str) -> None:
    parent = (b"traceparent", f"00-{TRACE}-{PARENT}-01".encode())
    trace = parse_trace([parent, (b"tracestate", state.encode())])
    assert trace is not None
    assert trace.state == kept


@given(st.text("ab1=@,*/-_ \t~!Z", max_size=40) | st.text(max_size=20))
def test_a_state_that_is_kept_is_one_for_opentelemetry_which_would_log_any_other(state: str) -> None:
    trace = parse_trace([(b"traceparent", f"00-{TRACE}-{PARENT}-01".encode()), (b"tracestate", state.encode())])
    assert trace is not None
    with TestCase().assertNoLogs("opentelemetry"):
        TraceState.from_header([trace.state])


def test_lines_name_the_trace_and_the_asker_without_the_ids_of_the_asker() -> None:
    exchange = Exchange.of("GET", "/", [(b"traceparent", f"00-{TRACE}-{PARENT}-01".encode()), (b"x-request-id", b"r")])
    exchange.principal = Principal("account", "key")
    assert exchange.labels == {"request_id": "r", "trace_id": TRACE, "principal": "ce2e8c1421e1"}


def test_the_pseudonym_of_an_asker_is_what_sha256sum_says() -> None:
    # printf %s account/key | sha256sum | cut -c1-12
    assert Principal("account", "key").pseudonym == "ce2e8c1421e1"
