"""The commands of the page about talking to a model, against a service that has loaded one."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuron_lib.config import load_config
from neuron_service.backends import BACKENDS
from tests.documents import blocks
from tests.patience import PATIENCE_S
from tests.system.daemon import MODELS, Daemon, running_daemon

pytestmark = [pytest.mark.system, pytest.mark.model]

ONE, MORE, SCRIPT, KEEP = blocks("docs/how-to/talk-to-a-model.md", "sh")
DEFAULT = '[[default_models]]\nmodel_id = "acme/assistant"\n'
BRIEF = "[harness.llamacpp.sampling]\nmax_tokens = 24\n"  # the commands give no bound, and the demo model likes to talk


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(
        tmp_path_factory.mktemp("talk"), DEFAULT + MODELS.replace("test/one", "acme/assistant") + BRIEF
    ) as host:
        host.wait_ready()
        yield host


def run(script: str, folder: Path, daemon: Daemon) -> subprocess.CompletedProcess[str]:
    """The commands of a block, in an empty folder, with `neuron` as the program of this environment."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "neuron").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m neuron_service "$@"\n')
    (programs / "neuron").chmod(0o755)
    path = os.pathsep.join((str(programs), os.environ["PATH"]))
    shell = shutil.which("sh")
    assert shell is not None
    return subprocess.run(
        [shell, "-ec", script],
        check=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=PATIENCE_S,
        cwd=folder,
        env=os.environ | {"PATH": path, "NEURON_HOST": daemon.url},
    )


def test_one_thing_is_asked_and_answered_on_stdout(tmp_path: Path, daemon: Daemon) -> None:
    assert run(ONE, tmp_path, daemon).stdout.strip()


def test_what_is_piped_in_follows_the_question(tmp_path: Path, daemon: Daemon) -> None:
    done = run(MORE, tmp_path, daemon)
    assert "tokens read" in done.stderr
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert (answer["model"], answer["finish_reason"] in {"stop", "length"}) == ("acme/assistant", True)


def test_each_line_of_a_script_is_a_message(tmp_path: Path, daemon: Daemon) -> None:
    assert len(run(SCRIPT, tmp_path, daemon).stdout.splitlines()) >= 2


def test_the_file_of_init_is_the_one_that_show_shows(tmp_path: Path, daemon: Daemon) -> None:
    done = run(KEEP.replace("neuron config show", "env -u NEURON_HOST neuron config show"), tmp_path, daemon)
    (shown := tmp_path / "shown.toml").write_text(done.stdout.partition("\n")[2])
    written = load_config(tmp_path / "neuron.toml", {}, sections=BACKENDS)
    assert load_config(shown, {}, sections=BACKENDS) == written
