"""The environment says where the hub is, where its files are, and who we are, as for all tools of the hub."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from neuron_lib.config import hub_endpoint, load_config
from neuron_lib.errors import ConfigError
from neuron_lib.llamacpp.backend import LLAMACPP
from neuron_lib.sources.hub_environment import hub_cache_dir, hub_token, offline_variable

LOGIN = "hf_of_the_login"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    (home / ".cache" / "huggingface").mkdir(parents=True)
    (home / ".cache" / "huggingface" / "token").write_text(f"{LOGIN}\n")
    return home


ENVIRONMENTS: list[dict[str, str]] = [
    {},
    {"HF_TOKEN": "hf_a"},
    {"HF_TOKEN": " hf_a\n", "HUGGING_FACE_HUB_TOKEN": "hf_b"},
    {"HF_TOKEN": "", "HUGGING_FACE_HUB_TOKEN": "hf_b\r\n"},
    {"HF_TOKEN": "", "HUGGING_FACE_HUB_TOKEN": ""},
    {"HF_HOME": "{home}/other"},
    {"HF_HOME": "~/other"},
    {"HF_HOME": "$HOME/other"},
    {"XDG_CACHE_HOME": "{home}/xdg"},
    {"XDG_CACHE_HOME": "{home}/xdg", "HF_HOME": "{home}/other"},
    {"HF_TOKEN_PATH": "~/secret", "HF_HOME": "{home}/other"},
    {"HF_TOKEN_PATH": "{home}/nowhere"},
    {"HF_HUB_CACHE": "~/big"},
    {"HUGGINGFACE_HUB_CACHE": "{home}/older", "HF_HOME": "{home}/other"},
    {"HF_HUB_CACHE": "{home}/big", "HUGGINGFACE_HUB_CACHE": "{home}/older"},
    {"HF_ENDPOINT": "http://127.0.0.1:8080/"},
    {"HF_HUB_OFFLINE": "1"},
    {"TRANSFORMERS_OFFLINE": "yes"},
    {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "1"},
]

ASK_THE_LIBRARY = """
import json
from huggingface_hub import constants, get_token
print(json.dumps([constants.ENDPOINT, constants.HF_HUB_CACHE, get_token(), constants.HF_HUB_OFFLINE]))
"""


@pytest.mark.process
@pytest.mark.parametrize("named", ENVIRONMENTS, ids=str)
def test_each_variable_means_what_it_means_to_the_hubs_own_library(home: Path, named: dict[str, str]) -> None:
    for place, token in {"other/token": "hf_other", "xdg/huggingface/token": "hf_xdg", "secret": "hf_path\n"}.items():
        (home / place).parent.mkdir(parents=True, exist_ok=True)
        (home / place).write_text(token)
    environ = {"HOME": str(home)} | {name: text.format(home=home) for name, text in named.items()}
    command = [sys.executable, "-c", ASK_THE_LIBRARY]
    told = subprocess.run(command, env=environ, capture_output=True, check=True, timeout=120)
    expected = json.loads(told.stdout)
    ours = [hub_endpoint(environ), str(hub_cache_dir(environ)), hub_token(environ).value]
    assert [*ours, offline_variable(environ) is not None] == expected


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({"HF_TOKEN": "hf_a"}, "HF_TOKEN"),
        ({"HUGGING_FACE_HUB_TOKEN": "hf_a"}, "HUGGING_FACE_HUB_TOKEN"),
        ({}, "{home}/.cache/huggingface/token"),
    ],
)
def test_a_token_says_where_it_comes_from_and_not_what_it_is(home: Path, environ: dict[str, str], place: str) -> None:
    token = hub_token({"HOME": str(home)} | environ)
    assert token.place == place.format(home=home)
    assert token.value is not None
    assert token.value not in f"{token!r} {token}"


def test_a_token_that_is_not_to_be_sent_unasked_is_not(home: Path) -> None:
    environ = {"HOME": str(home), "HF_TOKEN": "hf_a", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
    assert hub_token(environ).value is None


def test_without_any_home_no_login_is_looked_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(home))
    assert hub_token({}).value is None
    assert hub_token({"HOME": os.environ["HOME"]}).value == LOGIN


def test_a_token_file_may_begin_with_a_byte_order_mark(home: Path) -> None:
    (home / "token").write_bytes(b"\xef\xbb\xbfhf_a\r\n")
    assert hub_token({"HF_TOKEN_PATH": str(home / "token")}).value == "hf_a"


def test_a_token_file_that_cannot_be_read_is_told_and_counts_as_none(
    home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert hub_token({"HOME": str(home)}).value is None
    [warning] = caplog.messages
    assert "huggingface/token cannot be read: Permission denied" in warning


@pytest.mark.parametrize("kind", ["directory", "pipe"])
def test_a_token_file_that_is_no_file_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "token"
    os.mkfifo(path) if kind == "pipe" else path.mkdir()
    assert hub_token({"HF_TOKEN_PATH": str(path)}).value is None


@pytest.mark.parametrize(
    "endpoint",
    ["huggingface.co", "ftp://h", "http://", "https://user:secret@h", "https://h/?token=secret", "http://a b"],
)
def test_an_endpoint_that_is_no_address_stops_the_start_without_being_repeated(endpoint: str) -> None:
    environ: Mapping[str, str] = {"HF_ENDPOINT": endpoint}
    for read in (lambda: hub_endpoint(environ), lambda: load_config(None, environ, sections=(LLAMACPP,))):
        with pytest.raises(ConfigError) as raised:
            read()
        assert raised.value.message == "HF_ENDPOINT: expected an http or https address without user, password or query"


def test_an_endpoint_that_no_source_uses_stops_nothing(tmp_path: Path) -> None:
    file = tmp_path / "neuron.toml"
    file.write_text('[harness.llamacpp.sources.huggingface]\nendpoint = "https://h"\n')
    sources = load_config(file, {"HF_ENDPOINT": "nonsense"}, sections=(LLAMACPP,)).harness["llamacpp"].sources
    assert sources["huggingface"].endpoint == "https://h"
