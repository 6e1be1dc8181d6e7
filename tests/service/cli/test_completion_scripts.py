"""The completion scripts in the shells that they are for. A shell that is not here is skipped."""

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from neuron_service.cli import main

pytestmark = pytest.mark.process

_LIMIT_S = 120
TYPED = [("neuron unlo", "neuron unload"), ("neuron ps --js", "neuron ps --json"), ("neuron key rm --js", "--json")]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The variables of a shell that finds `neuron`, and nothing of this user."""
    neuron = tmp_path / "neuron"
    neuron.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m neuron_service "$@"\n')
    neuron.chmod(0o700)
    home = str(tmp_path)
    variables = {"PATH": f"{home}:{os.environ['PATH']}", "HOME": home, "ZDOTDIR": home, "XDG_CONFIG_HOME": home}
    return os.environ | variables | {"TERM": "dumb"}


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"there is no {shell} here")


def output(environ: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=_LIMIT_S)
    return done.stdout


@needs("bash")
def test_bash_completes_a_command(environ: dict[str, str]) -> None:
    script = """
        source <(neuron completion bash)
        COMP_WORDS=(neuron unl) COMP_CWORD=1
        _neuron_completion neuron
        echo "${COMPREPLY[@]}"
        complete -p neuron
    """
    lines = output(environ, "bash", "-c", script).splitlines()
    assert lines[0] == "unload"
    assert "-F _neuron_completion neuron" in lines[1]


@needs("fish")
@pytest.mark.parametrize(("typed", "completed"), TYPED)
def test_fish_completes_commands_and_options(environ: dict[str, str], typed: str, completed: str) -> None:
    script = f'neuron completion fish | source; complete --do-complete "{typed}"'
    offered = [line.partition("\t")[0] for line in output(environ, "fish", "--no-config", "-c", script).splitlines()]
    assert offered == [completed.rsplit(maxsplit=1)[-1]]


@needs("zsh")
@pytest.mark.parametrize(("typed", "completed"), TYPED)
def test_zsh_completes_commands_and_options(
    environ: dict[str, str], tmp_path: Path, typed: str, completed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["completion", "zsh"])
    (tmp_path / "_neuron").write_text(capsys.readouterr().out)
    setup = f"fpath=({tmp_path} $fpath); autoload -Uz compinit; compinit -u -D; zstyle '*' insert-tab false"
    # Tab completes. Then the whole line becomes the argument of `print`, which shows what the line has become.
    keys = f"{setup}\n{typed}\t\x01print -r -- '<\x05>'\nexit\n"
    shown = _on_terminal(["zsh", "-f", "-i"], environ, keys)
    (line,) = [each for each in shown.split("\r\n") if each.startswith("<")]
    assert completed in line


def _on_terminal(command: list[str], environ: dict[str, str], keys: str) -> str:
    """What a program on a terminal shows until its end, to a person who types these keys."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        command, env=environ, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    ) as shell:
        os.close(slave)
        os.write(master, keys.encode())
        shown = b""
        try:
            while piece := os.read(master, 65536):
                shown += piece
        except OSError:  # nobody has the other end any more
            pass
        finally:
            os.close(master)
        shell.wait(_LIMIT_S)
    return shown.decode(errors="replace")
