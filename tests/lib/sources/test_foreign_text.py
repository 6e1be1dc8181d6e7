"""What others wrote becomes one short line, and our token is in it in no spelling."""

import base64
import html
import json
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.sources.foreign_text import Redaction, one_line

TOKEN = "hf_aB3+/x?'\"é\n"  # noqa: S105
PLAIN = "hf_abcDEF0123456789"


@given(st.text(max_size=5000), st.integers(10, 300))
def test_any_text_becomes_one_line_that_can_be_printed(text: str, limit: int) -> None:
    line = one_line(text, limit=limit)
    assert len(line) <= limit
    assert line.isprintable()


def test_what_is_cut_says_so_and_what_is_not_is_the_same() -> None:
    assert one_line("a\n  b\tc") == "a b c"
    assert one_line("x" * 200) == "x" * 200
    assert one_line("x" * 201) == "x" * 199 + "…"
    assert one_line(" " * 1_000_000 + "x").endswith("…")


SPELLINGS: dict[str, Callable[[str], str]] = {
    "itself": str,
    "repr": repr,
    "ascii": ascii,
    "stripped": str.strip,
    "upper case": str.upper,
    "JSON": json.dumps,
    "percent": quote,
    "percent, slash too": lambda token: quote(token, safe=""),
    "form": quote_plus,
    "bytes": lambda token: repr(token.encode()),
    "HTML": html.escape,
    "hexadecimal": lambda token: token.encode().hex(),
    "base64": lambda token: base64.b64encode(token.encode()).decode(),
    "base64 of addresses": lambda token: base64.urlsafe_b64encode(token.encode()).decode(),
    "base64 of a header": lambda token: base64.b64encode(f"Bearer {token}".encode()).decode(),
    "base64 of a user": lambda token: base64.b64encode(f"user:{token}".encode()).decode(),
}


@pytest.mark.parametrize("token", [TOKEN, PLAIN])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_token_is_found_however_it_is_spelled(token: str, spelling: str) -> None:
    spelled = SPELLINGS[spelling](token)
    shown = Redaction(token)(f"illegal header value {spelled}, refused")
    assert shown.startswith("illegal header value")
    assert shown.endswith(", refused")
    assert "…" in shown
    if "of a" not in spelling:  # where more is encoded than the token, that stays
        assert len(shown) < len("illegal header value , refused") + 8
    assert not any(token[start : start + 5] in shown for start in range(len(token) - 5))
    assert len(shown) < len("illegal header value , refused") + len(spelled) - len(token) + 8


def test_users_passwords_and_queries_of_addresses_are_taken_out() -> None:
    text = "cannot reach https://me:secret@h/a?signature=0123 (https://user@h2/)"
    assert Redaction(None)(text) == "cannot reach https://…@h/a?… (https://…@h2/)"


@pytest.mark.parametrize("secret", [None, "", " \n"])
def test_without_a_secret_the_text_stays(secret: str | None) -> None:
    assert Redaction(secret)("as it is") == "as it is"


def test_a_short_secret_is_taken_out_as_it_is() -> None:
    assert Redaction("x1")("so x1 goes") == "so … goes"
