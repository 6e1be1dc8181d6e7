"""`neuron config show`, `schema` and `init` from the command line."""

import json
import os
import tomllib
from pathlib import Path

import pytest

from neuron_lib.config import load_config
from neuron_service.backends import BACKENDS
from neuron_service.cli import main


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_show_prints_every_key_with_its_origin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEURON_PORT", "8080")
    Path("neuron.toml").write_text("[harness.llamacpp]\nn_ctx = 9\n")
    assert run("config", "show") == 0
    text = capsys.readouterr().out
    assert "port = 8080 # NEURON_PORT\n" in text
    assert "n_ctx = 9 # neuron.toml\n" in text
    assert tomllib.loads(text)["log_level"] == "info"
    assert run("config", "show", "--given") == 0
    assert tomllib.loads(capsys.readouterr().out) == {"port": 8080, "harness": {"llamacpp": {"n_ctx": 9}}}


def test_show_as_json_has_the_values_and_their_origins_apart(capsys: pytest.CaptureFixture[str]) -> None:
    Path("neuron.toml").write_text("port = 1\n")
    assert run("config", "show", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["config"]["port"] == 1
    assert shown["origins"] == {"port": "neuron.toml"}
    assert run("config", "show", "--json", "--given") == os.EX_USAGE


def test_show_refuses_a_file_that_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    Path("neuron.toml").write_text("prot = 1\n")
    assert run("config", "show") == os.EX_CONFIG
    assert capsys.readouterr() == ("", "neuron: neuron.toml: unknown key `prot`; did you mean `port`?\n")


def test_schema_prints_a_json_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "schema") == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Configuration of a neuron"


def test_init_writes_a_file_that_a_start_can_read(capsys: pytest.CaptureFixture[str]) -> None:
    Path("m.gguf").write_bytes(b"GGUF")
    assert run("config", "init", "m.gguf", "a/b:Q8_0") == 0
    assert capsys.readouterr().out == "wrote neuron.toml; look it over, then: neuron serve\n"
    config = load_config(Path("neuron.toml"), {}, sections=BACKENDS)
    assert [spec.model_id for spec in config.default_models] == ["local/m", "a/b:Q8_0"]


def test_init_replaces_no_file_unless_it_is_told_to(capsys: pytest.CaptureFixture[str]) -> None:
    Path("neuron.toml").write_text("mine")
    assert run("config", "init") == os.EX_CANTCREAT
    assert "neuron.toml is there; give another name with --output" in capsys.readouterr().err
    assert Path("neuron.toml").read_text() == "mine"
    assert run("config", "init", "--force") == 0
    assert run("config", "init", "-o", "no/where.toml") == os.EX_CANTCREAT


def test_init_can_print_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "init", "-o", "-", "a/b") == 0
    assert 'model_id = "a/b"' in capsys.readouterr().out
    assert not Path("neuron.toml").exists()


@pytest.mark.parametrize(("model", "status"), [("absent.gguf", os.EX_NOINPUT), ("llama3", os.EX_USAGE)])
def test_init_writes_nothing_for_a_model_that_is_none(model: str, status: int) -> None:
    assert run("config", "init", model) == status
    assert not Path("neuron.toml").exists()
