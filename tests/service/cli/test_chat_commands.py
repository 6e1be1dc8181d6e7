"""`neuron run`, `neuron chat` and `neuron serve MODEL` from the command line, up to the load of a model."""

import io
import os
import sys
from pathlib import Path

import click
import pytest

from neuron_service.cli import chat, main
from tests.command_tree import EVERY_COMMAND


@pytest.fixture(autouse=True)
def _nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user in a folder with nothing but a configuration, on a machine where no daemon runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "neuron.toml").write_text(f'host = "unix:{tmp_path}/no-socket"')
    monkeypatch.setenv("NEURON_HOST", f"unix:{tmp_path}/no-socket")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def pipe(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


@pytest.mark.parametrize("command", [("serve", "absent.gguf"), ("serve", "--check-config", "absent.gguf")])
def test_a_file_that_is_not_there_is_one_sentence(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command) == os.EX_NOINPUT
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"neuron: {Path.cwd()}/absent.gguf is not there, or is no regular file; look at the spelling")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", [("run", "absent.gguf", "Hi"), ("chat", "absent.gguf")])
def test_a_file_that_no_daemon_needs_to_know_is_looked_for_here(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NEURON_HOST")
    pipe(monkeypatch, "")
    assert run(*command) == os.EX_NOINPUT
    err = capsys.readouterr().err
    assert err.startswith(f"neuron: {Path.cwd()}/absent.gguf is not there, or is no regular file; look at the spelling")


@pytest.mark.parametrize("command", ["serve", "run", "chat"])
def test_a_word_that_is_no_model_says_what_can_be_given(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NEURON_HOST")
    pipe(monkeypatch, "Hi")
    assert run(command, "llama3") == os.EX_USAGE
    assert "'llama3' is no model: give a GGUF file (./llama3.gguf), org/name[:quant]" in capsys.readouterr().err


def test_a_daemon_that_was_named_must_be_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe(monkeypatch, "Hi")
    assert run("run", "a/b") == os.EX_UNAVAILABLE
    assert "no neuron listens at unix:" in capsys.readouterr().err


def test_a_named_daemon_loads_no_file_of_its_client(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe(monkeypatch, "Hi")
    assert run("run", "-H", "gpu1", "m.gguf") == os.EX_USAGE
    assert "m.gguf is a file, and http://gpu1:13131 loads no files of its clients" in capsys.readouterr().err


def test_a_chat_without_a_daemon_and_without_a_model_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NEURON_HOST")
    assert run("chat") == os.EX_USAGE
    assert "no neuron runs here and no model is configured; name a model" in capsys.readouterr().err


def test_a_run_without_a_prompt_says_how_to_give_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe(monkeypatch, " \n")
    assert run("run", "a/b") == os.EX_USAGE
    assert capsys.readouterr().err == (
        "neuron: there is no prompt; write it behind the model, or pipe it into the command\n"
    )


def test_a_prompt_that_no_model_could_take_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(chat, "_LONGEST_INPUT", 3)
    pipe(monkeypatch, "four")
    assert run("run", "a/b") == os.EX_DATAERR
    assert "it has more than 3 characters" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [("serve", "--demo", "a/b"), ("run",), ("run", "a/b", "--max-tokens", "0"), ("chat", "a/b", "c/d")]
)
def test_a_wrong_command_line_is_one_sentence(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == os.EX_USAGE
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("command", ["run", "chat", "bench", "serve"])
def test_a_shell_completes_the_names_of_files_for_a_model(command: str) -> None:
    (argument,) = [each for each in EVERY_COMMAND[command].params if each.name in {"model", "models"}]
    with click.Context(EVERY_COMMAND[command]) as context:
        items = argument.shell_complete(context, "./m")
    assert [(item.value, item.type) for item in items] == [("./m", "file")]
