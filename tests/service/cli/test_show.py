"""`neuron show` and `neuron logs`."""

import json
import os
from pathlib import Path

import pytest

from neuron_service.cli import main
from neuron_service.cli.commands.logs import journal_command
from tests.fakes.fake_daemon import Answer, fake_daemon
from tests.fakes.gguf_bytes import gguf


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a model, a configuration that names it, and no service."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m-Q8_0.gguf").write_bytes(gguf())
    config = f'host = "unix:{tmp_path}/none"\nmodels = [{{ id = "a/b", path = "{tmp_path}/m-Q8_0.gguf" }}]\n'
    (tmp_path / "neuron.toml").write_text(f'{config}harness.llamacpp.local_roots = ["{tmp_path}"]\n')
    return tmp_path


@pytest.mark.parametrize("model", ["a/b", "m-Q8_0.gguf"])
def test_the_file_of_a_model_is_described_without_a_service(
    model: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("show", model) == 0
    names = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert {"id", "architecture", "parameters", "size", "can do", "file"} <= set(names)
    assert "service" not in names
    assert run("show", model, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["service"] is None
    assert answer["file"]["size_bytes"] == (here / "m-Q8_0.gguf").stat().st_size


def test_the_service_of_this_machine_adds_what_it_knows(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = {"id": "a/b", "status": "loaded", "devices": [], "ram_used_mb": 100, "limit": {"context": 4096}}
    answers = {"GET /v1/models/a/b": Answer({"id": "a/b"}), "GET /models": Answer([entry])}
    with fake_daemon(here, answers) as daemon:
        (here / "neuron.toml").write_text((here / "neuron.toml").read_text().replace("/none", "/daemon.sock"))
        assert run("show", "a/b") == 0
        assert "loaded: a/b" in capsys.readouterr().out
        assert run("show", "a/b", "--host", daemon.host, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"file": None, "service": entry}


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("no/such",), 1, "no/such is not on this machine; `neuron pull no/such` fetches it"),
        (("no/such:m.gguf",), 1, "`neuron pull no/such:m.gguf` fetches it"),
        (("nowhere.gguf",), 1, "nowhere.gguf: No such file"),
        (("neuron.gguf",), 1, "is no usable GGUF"),
        (("a/b", "--host", "unix:/nowhere/s"), os.EX_UNAVAILABLE, "start one with `neuron serve`"),
    ],
)
def test_what_cannot_be_shown_is_one_line_that_says_why(
    arguments: tuple[str, ...], status: int, said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "neuron.gguf").write_text("no model")
    assert run("show", *arguments) == status
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def test_the_log_is_that_of_the_journal() -> None:
    command = journal_command(follow=True, lines=5, level="error", since="10 min ago", unit="n2", is_user=True)
    assert command == [
        "journalctl",
        "--lines=5",
        "--user-unit=n2",
        "--follow",
        "--priority=err",
        "--since=10 min ago",
    ]


def test_without_a_journal_the_command_says_where_the_log_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run("logs") == os.EX_UNAVAILABLE
    assert "logs to its own stderr" in capsys.readouterr().err
