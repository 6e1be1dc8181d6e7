"""What a hub says it holds is read as a listing, or refused in words that name the file."""

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.sources.hub_listing import MalformedListing, parse_listing
from neuron_lib.sources.repository import Listing, RepoFile

COMMIT = "c" * 40


def document(*files: Any, **more: Any) -> bytes:
    return json.dumps({"sha": COMMIT, "siblings": files} | more).encode()


def refusal(text: bytes) -> str:
    with pytest.raises(MalformedListing) as raised:
        parse_listing(text)
    message = str(raised.value)
    assert message.isprintable()
    assert len(message) < 400
    return message


def test_a_listing_is_read_with_the_hash_of_large_files() -> None:
    large = {"rfilename": "m.gguf", "size": 9, "blobId": "g", "lfs": {"sha256": "s", "size": 9, "pointerSize": 1}}
    files = (large, {"rfilename": "README.md", "size": 1, "blobId": "b"}, {"rfilename": "unknown", "size": None})
    assert parse_listing(document(*files, tags=["x"], gated=False)) == Listing(
        COMMIT, (RepoFile("m.gguf", 9, "s"), RepoFile("README.md", 1, "b"), RepoFile("unknown"))
    )


def test_a_large_file_without_its_hash_is_not_taken_for_its_pointer() -> None:
    entry = {"rfilename": "m.gguf", "size": 9, "blobId": "of the pointer", "lfs": {"size": 9}}
    assert parse_listing(document(entry)).files == (RepoFile("m.gguf", 9, None),)


@pytest.mark.parametrize("text", [document(), b'{"sha":"%b"}' % COMMIT.encode(), document(siblings=None)])
def test_a_repository_may_be_empty(text: bytes) -> None:
    assert parse_listing(text).files == ()


@pytest.mark.parametrize(
    "change",
    [
        {"size": "12"},
        {"size": -1},
        {"size": 1.5},
        {"size": True},
        {"size": []},
        {"size": 10**30},
        {"size": 2**64},
        {"blobId": 7},
        {"lfs": "yes"},
        {"lfs": {"sha256": "s", "size": "12"}},
        {"lfs": {"sha256": ["s"], "size": 12}},
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_with_its_key_and_its_file(change: dict[str, Any]) -> None:
    message = refusal(document({"rfilename": "ok.gguf"}, {"rfilename": "m.gguf", "size": 1} | change))
    assert next(iter(change)) in message
    assert "'m.gguf'" in message
    assert "ok.gguf" not in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (document({"rfilename": 7}), "entry 1"),
        (document({"size": 7}), "entry 1"),
        (document("m.gguf"), "entry 1"),
        (document({"rfilename": "a"}, 7), "entry 2"),
        (document(siblings={"m.gguf": 1}), "siblings"),
        (document(sha=7), "sha"),
        (document(sha=None), "names no commit"),
        (document(sha="main"), "names no commit"),
        (document(sha="x" * 1_000_000), "names no commit"),
        (b"[]", "expected"),
        (b'"text"', "expected"),
        (b"null", "expected"),
        (b'{"sha":' + b"[" * 500_000, "sha"),
        (b'{"tags":' + b"[" * 500_000 + b"]" * 500_000 + b"}", "nested too deeply"),
        (document({"rfilename": "a"}).replace(b'"a"', b'"\xff"'), "not UTF-8"),
        (document({"rfilename": "m.gguf", "size": 1}, {"rfilename": "m.gguf", "size": 2}), "'m.gguf' twice"),
        (b'{"siblings":[' + b'{"rfilename":""},' * 500_000 + b"]}", "too many entries"),
    ],
)
def test_what_means_no_listing_is_refused(text: bytes, words: str) -> None:
    assert words in refusal(text)


@pytest.mark.parametrize("size", [b"9" * 5_000_000, b"-" + b"9" * 5_000_000, b"1e999999999"])
def test_a_number_of_any_length_is_refused_at_once(size: bytes) -> None:
    refusal(document({"rfilename": "m.gguf", "size": 0}).replace(b": 0", b": " + size))


def test_a_name_of_any_length_and_kind_is_cut_in_a_refusal() -> None:
    assert "\N{REPLACEMENT CHARACTER}[2J" in refusal(document({"rfilename": "\x1b[2J" + "x" * 100_000, "size": "1"}))


def test_the_same_entry_twice_counts_once() -> None:
    assert parse_listing(document({"rfilename": "a"}, {"rfilename": "a"})).files == (RepoFile("a"),)


@pytest.mark.parametrize("text", [b"", b"<html>", b'{"sha":', b"\xff\xfe"])
def test_what_is_no_json_is_told_from_what_is_malformed(text: bytes) -> None:
    with pytest.raises(msgspec.DecodeError) as raised:
        parse_listing(text)
    assert not isinstance(raised.value, msgspec.ValidationError)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["rfilename", "size", "lfs"]), inner),
    max_leaves=8,
)


@given(st.lists(JSON, max_size=4) | JSON, JSON)
def test_any_json_is_a_listing_or_a_refusal(siblings: Any, sha: Any) -> None:
    for named in (COMMIT, sha):
        with suppress(MalformedListing):
            parse_listing(json.dumps({"sha": named, "siblings": siblings}).encode())
