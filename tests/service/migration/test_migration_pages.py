"""The examples of the pages about other servers are what the command makes of them."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from neuron_service.cli.program import ROOT
from tests.documents import blocks

OLLAMA, LLAMA_SERVER, LLAMA_SWAP = (f"docs/how-to/from-{name}.md" for name in ("ollama", "llama-server", "llama-swap"))
RUST = "docs/how-to/from-the-rust-neuron.md"
(OLLAMA_COMMANDS,), (MODELFILE,), (DROP_IN,), (OF_OLLAMA,) = (
    blocks(OLLAMA, language) for language in ("sh", "docker", "ini", "toml")
)
(SWAP_COMMANDS,), (SWAP_FILE,), (OF_SWAP,) = (blocks(LLAMA_SWAP, language) for language in ("sh", "yaml", "toml"))
(SERVER_COMMAND,), (OF_SERVER,) = (blocks(LLAMA_SERVER, language) for language in ("sh", "toml"))
(RUST_COMMAND,), (RUST_FILE,) = (blocks(RUST, language) for language in ("sh", "toml"))


def imports(commands: str) -> list[list[str]]:
    """The words behind `neuron config import` of each such line. Paths become names in the current directory."""
    lines = [shlex.split(line) for line in commands.splitlines() if line.startswith("neuron config import ")]
    return [[word.rpartition("/")[2] for word in line[3:]] for line in lines]


@pytest.mark.parametrize(
    ("commands", "files", "result"),
    [
        (OLLAMA_COMMANDS, {"assistant.Modelfile": MODELFILE, "override.conf": DROP_IN}, OF_OLLAMA),
        (SWAP_COMMANDS, {"config.yaml": SWAP_FILE}, OF_SWAP),
        ("neuron config import llama-server start.sh -o neuron.toml", {"start.sh": SERVER_COMMAND}, OF_SERVER),
    ],
    ids=["ollama", "llama-swap", "llama-server"],
)
def test_the_command_of_a_page_makes_the_file_that_the_page_shows(
    commands: str, files: dict[str, str], result: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(text, "utf-8")
    (words,) = imports(commands)
    done = CliRunner().invoke(ROOT, ["config", "import", *words], standalone_mode=False)
    assert (done.exit_code, done.return_value) == (0, 0), done.output
    assert (tmp_path / "neuron.toml").read_text("utf-8") == result


def test_a_file_that_is_there_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(SWAP_FILE, "utf-8")
    Path("neuron.toml").write_text("port = 1\n", "utf-8")
    done = CliRunner().invoke(ROOT, ["config", "import", *imports(SWAP_COMMANDS)[0]], standalone_mode=False)
    assert done.return_value == 73
    assert Path("neuron.toml").read_text("utf-8") == "port = 1\n"


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (None, 66, "No such file"),
        (b"\xff\xfe", 65, "not UTF-8"),
        (b" " * (2 << 20), 65, "1 MiB"),
        (b"a: 1", 65, "models"),
    ],
)
def test_a_file_that_cannot_be_translated_is_one_sentence_and_writes_nothing(
    content: bytes | None, status: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("config.yaml").write_bytes(content)
    words = ["config", "import", "llama-swap", "config.yaml", "-o", "neuron.toml"]
    done = CliRunner().invoke(ROOT, words, standalone_mode=False)
    assert done.return_value == status
    assert re.fullmatch(rf"neuron: .*{said}.*nothing was written\n", done.stderr)
    assert not Path("neuron.toml").exists()


def test_json_has_the_configuration_and_the_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(SWAP_FILE, "utf-8")
    done = CliRunner().invoke(ROOT, ["config", "import", "llama-swap", "config.yaml", "--json"], standalone_mode=False)
    said = json.loads(done.stdout)
    assert said["config"] == tomllib.loads(OF_SWAP)
    assert {note["kind"] for note in said["notes"]} == {"lost", "differs", "needless"}


def test_the_file_of_a_fleet_is_checked_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "neuron.toml"
    file.write_text(
        'port = 13131\n[[harnesses]]\nname = "candle"\n[[default_models]]\nmodel_id = "a/b"\nharness = "candle"\n'
        "[harness.candle.prefix_cache]\nbudget_mb = 64\nmax_entries = 8\n" + RUST_FILE,
        "utf-8",
    )
    *words, _ = shlex.split(RUST_COMMAND)
    done = CliRunner().invoke(ROOT, [*words[1:], str(file)], standalone_mode=False)
    assert done.return_value == 0, done.output
