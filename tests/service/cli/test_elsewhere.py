"""What commands say of models that llama.cpp does not load: those of another server, and those of another program."""

import io
import json
import os
import sys
from pathlib import Path

import pytest

from neuron_service.cli import main
from tests.fakes.fake_daemon import Answer, fake_daemon
from tests.fakes.programs import PROGRAM

CONFIG = """
host = "unix:{here}/daemon.sock"
harness.llamacpp.local_roots = ["{here}"]
[[harnesses]]
name = "llamacpp"
[[harnesses]]
name = "far"
kind = "remote"
url = "http://127.0.0.1:9"
[harnesses.models."acme/big"]
model_name = "big-one"
context = 8192
[[harnesses]]
name = "ears"
kind = "process"
command = ["{here}/ears", "{{path}}", "{{port}}"]
formats = ["file"]
capabilities = []
[harnesses.models."acme/ears"]
memory = {{ cpu = 500, gpu0 = 1000 }}
[[harnesses]]
name = "folders"
kind = "process"
preset = "vllm"
[[harnesses]]
name = "own"
kind = "process"
command = ["{python}", "-S", "{program}", "--port", "{{port}}"]
ready = {{ path = "/health" }}
health = {{ path = "/health" }}
env = {{ FAKE_KEY = "{{api_key}}" }}
[[models]]
id = "acme/ears"
path = "{here}/ears.bin"
[[models]]
id = "acme/folder"
path = "{here}/folder"
harness = "folders"
[[models]]
id = "acme/own"
harness = "own"
[[default_models]]
model_id = "acme/big"
harness = "far"
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the configuration and the files that it names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    text = CONFIG.format(here=tmp_path, python=sys.executable, program=PROGRAM)
    (tmp_path / "neuron.toml").write_text(text)
    for program in ("ears", "vllm"):
        (tmp_path / program).touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "ears.bin").write_bytes(b"not a GGUF")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("{}")
    (tmp_path / "folder" / "model.safetensors").write_bytes(b"1234")
    return tmp_path


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def pairs(text: str) -> dict[str, str]:
    return {name: value for name, _, value in (line.partition("  ") for line in text.splitlines()) if name}


def test_a_configuration_with_all_kinds_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "check") == 0, capsys.readouterr().err


def test_a_harness_that_is_not_there_is_still_found(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (here / "neuron.toml").read_text().replace('harness = "far"', 'harness = "near"')
    (here / "neuron.toml").write_text(text)
    assert run("config", "check") == os.EX_CONFIG
    assert "unknown harness 'near'; offered here: llamacpp, far, ears, folders, own" in capsys.readouterr().err


def test_a_model_of_another_server_is_shown_with_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "acme/big") == 0
    assert {name: value.strip() for name, value in pairs(capsys.readouterr().out).items()} == {
        "id": "acme/big",
        "harness": "far, of the kind remote",
        "server": "http://127.0.0.1:9",
        "name there": "big-one",
        "context": "8192 tokens",
    }
    assert run("show", "acme/big", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["file"], answer["service"]) == (None, None)
    facts = {"name": "far", "kind": "remote", "url": "http://127.0.0.1:9", "model_name": "big-one", "context": 8192}
    assert answer["harness"] == facts


def test_the_service_adds_what_it_knows_of_a_model_of_another_server(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = {"id": "acme/big", "harness": "far", "status": "loaded", "devices": [], "limit": {"context": 4096}}
    with fake_daemon(here, {"GET /v1/models/acme/big": Answer({"id": "acme/big"}), "GET /models": Answer([entry])}):
        assert run("show", "acme/big") == 0
    shown = pairs(capsys.readouterr().out)
    assert "loaded: acme/big" in shown["service"]
    assert "4096 tokens" in shown["serves"]
    assert shown["loaded by"].strip() == "far"
    assert "devices" not in shown  # they are those of another host


def test_the_files_of_another_program_are_shown_as_they_are(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    assert run("show", "acme/ears") == 0
    shown = {name: value.strip() for name, value in pairs(capsys.readouterr().out).items()}
    assert shown["file"] == f"{here}/ears.bin"
    assert shown["program"] == str(here / "ears")
    assert shown["can do"] == "nothing that this service offers"
    assert shown["counts as"] == "524 MB on cpu and 1.0 GB on gpu0"
    assert "chat template" not in shown
    assert run("show", "acme/folder", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    files = [f"{here}/folder/config.json", f"{here}/folder/model.safetensors"]
    assert answer["file"] == {"id": "acme/folder", "files": files, "size_bytes": 6}
    assert answer["harness"]["formats"] == ["safetensors"]


def test_a_program_with_files_of_its_own_needs_none_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "acme/own") == 0
    assert "own, of the kind process" in pairs(capsys.readouterr().out)["harness"]


def test_files_and_folders_of_other_programs_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ls", "--json") == 0
    models = {model["id"]: model for model in json.loads(capsys.readouterr().out)["models"]}
    assert {id_: model["size_bytes"] for id_, model in models.items()} == {"acme/ears": 10, "acme/folder": 6}
    assert [model["missing"] for model in models.values()] == [None, None]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("pull", "acme/big"), "acme/big is at http://127.0.0.1:9, the server of the harness far, so nothing is"),
        (("pull", "acme/own"), "the command of the harness own names no file, so its program has its own files of"),
        (("estimate", "acme/big"), "acme/big takes no memory of this host: it is at http://127.0.0.1:9, the server of"),
    ],
)
def test_what_makes_no_sense_for_such_a_model_is_one_sentence_that_says_why(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


@pytest.mark.parametrize(("model", "place"), [("acme/ears", "ears.bin"), ("acme/folder", "folder")])
def test_a_pull_finds_the_formats_of_the_program(
    model: str, place: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("pull", model) == 0
    assert capsys.readouterr().out == f"{here}/{place}\n"


@pytest.mark.process
def test_an_estimate_for_another_program_is_what_the_service_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("estimate", "acme/ears") == 1
    assert "exactly; it counts acme/ears as 524 MB on cpu and 1.0 GB on gpu0" in capsys.readouterr().err


@pytest.mark.process
def test_a_model_of_another_program_answers_without_a_service(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "acme/own", "one two three") == 0
    assert capsys.readouterr().out.split() == ["one", "two", "three"]


@pytest.mark.process
def test_a_server_that_is_gone_is_one_sentence_that_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "acme/big", "hi") == os.EX_TEMPFAIL
    error = capsys.readouterr().err
    assert "the server at http://127.0.0.1:9 cannot be reached" in error
    assert "Traceback" not in error
