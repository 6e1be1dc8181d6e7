"""From one command to a chat: a file is run, served and talked to, without any configuration."""

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.system.daemon import COMMAND, free_port, run_neuron, running_daemon

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def nobody() -> dict[str, str]:
    """The environment of a user on whose machine no daemon runs."""
    return {"NEURON_PORT": str(free_port())}


def test_a_file_answers_a_prompt_without_any_configuration(smollm2_path: Path, nobody: dict[str, str]) -> None:
    arguments = ("--json", "--temperature", "0", "--max-tokens", "8", "Say", "hello.")
    ended = run_neuron("run", str(smollm2_path), *arguments, environ=nobody)
    assert ended.returncode == 0, ended.stderr
    answer = json.loads(ended.stdout)
    assert answer["model"] == "local/SmolLM2-135M-Instruct.Q4_1"
    assert answer["text"]
    assert answer["usage"]["completion_tokens"] <= 8


def test_a_file_is_served_by_its_name_and_the_only_model_needs_none_in_a_chat(
    smollm2_path: Path, tmp_path: Path
) -> None:
    (link := tmp_path / "small.gguf").symlink_to(smollm2_path)
    with running_daemon(tmp_path / "daemon", arguments=[str(link)]) as daemon:
        daemon.wait_ready()
        assert [each["id"] for each in daemon.client.get("/models").json()] == ["local/small"]
        ended = subprocess.run(
            [*COMMAND, "chat", "-H", daemon.url, "--max-tokens", "4"],
            check=False,
            input="Hi\n/help\n",
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip()
    assert "/save FILE" in ended.stderr


def test_in_a_terminal_an_interrupt_stops_the_reply_and_not_the_chat(
    smollm2_path: Path, nobody: dict[str, str], tmp_path: Path
) -> None:
    environ = nobody | {"XDG_STATE_HOME": str(tmp_path), "TERM": "xterm"}
    with terminal("chat", str(smollm2_path), "--temperature", "0", environ=environ) as typist:
        typist.wait_for(">>> ")
        typist.type("Count from one to five hundred, with commas.\n")
        typist.wait_for("5")
        typist.type("\x03")
        typist.wait_for("stopped")
        typist.wait_for(">>> ")
        typist.type("/bogus\n")
        typist.wait_for("there is no command '/bogus'")
        typist.wait_for(">>> ")  # before that, Ctrl-D would be for the terminal and not for the line editor
        typist.type("\x04")
        assert typist.process.wait(PATIENCE_S) == 0
    history = tmp_path / "neuron" / "chat_history"
    assert "/bogus" in history.read_text()
    assert history.stat().st_mode & 0o777 == 0o600


class Typist:
    """The other side of a terminal."""

    def __init__(self, fd: int, process: subprocess.Popen[bytes]) -> None:
        self._fd = fd
        self.process = process
        self._seen = b""

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def wait_for(self, text: str) -> None:
        """Read until the program has shown this text, and forget what was shown up to it."""
        while text.encode() not in self._seen:
            more = b""
            with suppress(OSError):  # the program has ended
                more = os.read(self._fd, 4096)
            assert more, f"the program ended before it showed {text!r}; it showed {self._seen[-2000:]!r}"
            self._seen += more
        self._seen = self._seen.partition(text.encode())[2]


@contextmanager
def terminal(*arguments: str, environ: dict[str, str]) -> Iterator[Typist]:
    """A command in a terminal of its own. It is ended at the end of the block."""
    mine, its = pty.openpty()
    process = subprocess.Popen(
        ["/usr/bin/setsid", "--ctty", *COMMAND, *arguments],  # Ctrl-C goes to the session of a terminal
        stdin=its,
        stdout=its,
        stderr=its,
        env=os.environ | environ,
    )
    os.close(its)
    try:
        yield Typist(mine, process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(mine)
