"""The file of keys, and finding a key."""

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.errors import ConfigError
from neuron_service.access.keys import KeyRing, line_of, new_secret, parse_keys, parse_scopes
from neuron_service.access.scopes import SCOPES

SECRET = "neuron-" + "s" * 43
LINE = line_of("laptop", ["inference"], SECRET)


def test_a_key_is_found_by_what_its_owner_sends() -> None:
    ring = KeyRing(parse_keys(f"# keys\n\n{LINE}\n{line_of('ops', ['metrics', 'admin'], 'other')}\n", place="keys"))
    found = ring.find(SECRET.encode())
    assert found is not None
    assert (found.name, sorted(found.scopes)) == ("laptop", ["inference"])
    ops = ring.find(b"other")
    assert ops is not None
    assert sorted(ops.scopes) == ["admin", "metrics"]
    assert len(ring) == 2


@pytest.mark.parametrize("secret", [b"", b"x", SECRET[:-1].encode(), SECRET.encode() + b"s", b"\xff" * 600])
def test_no_other_text_is_a_key(secret: bytes) -> None:
    assert KeyRing(parse_keys(LINE, place="keys")).find(secret) is None


def test_a_new_key_cannot_be_guessed_and_needs_no_quotes() -> None:
    secrets = {new_secret() for _ in range(50)}
    assert len(secrets) == 50
    assert all(re.fullmatch(r"neuron-[A-Za-z0-9_-]{43}", secret) for secret in secrets)


def test_the_line_of_a_key_does_not_have_the_key() -> None:
    assert SECRET not in LINE
    assert re.fullmatch(r"laptop inference sha256:[0-9a-f]{64}", LINE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("laptop", "`NAME SCOPES sha256:HASH`"),
        (f"{SECRET} inference sha256:{'0' * 64} x", "`NAME SCOPES sha256:HASH`"),
        (f"-x inference sha256:{'0' * 64}", "`NAME SCOPES sha256:HASH`"),
        (f"{SECRET} inference {SECRET}", "no `sha256:`"),
        (f"laptop inference,chat sha256:{'0' * 64}", "the scopes are not"),
        (f"laptop , sha256:{'0' * 64}", "the scopes are not"),
        (f"{LINE}\n{line_of('laptop', ['admin'], 'y')}", "line 2: an earlier key has this name"),
        (f"{LINE}\n{LINE.replace('laptop', 'desk')}", "line 2: an earlier key has this hash"),
        ("\n".join(line_of(f"k{n}", ["admin"], str(n)) for n in range(1001)), "line 1001: there are more than 1000"),
    ],
)
def test_a_line_that_is_no_key_is_refused_without_showing_it(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        parse_keys(text, place="/etc/neuron/keys")
    assert "/etc/neuron/keys, line " in str(caught.value)
    assert SECRET not in str(caught.value)


@given(st.text())
def test_any_text_is_keys_or_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse_keys(text, place="keys")


def test_scopes_are_all_or_nothing() -> None:
    assert sorted(parse_scopes("inference") or ()) == ["inference"]
    assert sorted(parse_scopes("metrics,admin,inference") or ()) == sorted(SCOPES)
    assert [parse_scopes(text) for text in ("", "all", "inference,", "inference admin")] == [None] * 4
