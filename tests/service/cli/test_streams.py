"""What becomes of a command whose standard streams are missing, full or unable to print a text."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from neuron_service.cli.streams import take_any_text
from neuron_service.cli.terminal import complain

COMMAND = f"{sys.executable} -m neuron_service"


def shell(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.process
@pytest.mark.parametrize("arguments", ["config schema", "--help", "completion bash"])
def test_a_full_disk_is_one_line_and_an_exit_status(arguments: str) -> None:
    done = shell(f"{COMMAND} {arguments} >/dev/full")
    assert (done.returncode, done.stderr) == (
        os.EX_IOERR,
        "neuron: the output cannot be written: No space left on device\n",
    )


@pytest.mark.process
def test_a_full_disk_for_errors_keeps_the_exit_status() -> None:
    assert shell(f"{COMMAND} nonsense 2>/dev/full").returncode == os.EX_USAGE


@pytest.mark.process
def test_missing_streams_change_no_exit_status() -> None:
    done = shell(f"{COMMAND} config show >&- <&-")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("encoding", "text", "written"),
    [
        ("ascii", "gr\u00fc\u00df \u2501", b"gr?? ?"),
        ("utf-8", "gr\u00fc\u00df \ud800", b"gr\xc3\xbc\xc3\x9f ?"),
        ("utf-8", "caf\udce9.gguf", b"caf\xe9.gguf"),
    ],
)
def test_any_text_can_be_printed_and_a_file_name_keeps_its_bytes(encoding: str, text: str, written: bytes) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    take_any_text(stream)
    stream.write(text)
    stream.flush()
    assert raw.getvalue() == written


def test_an_error_is_one_line_whatever_it_quotes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    complain(f"{tmp_path.name}: \x1b[2J\n\u202eneuron: all is well")
    assert capsys.readouterr().err == f"neuron: {tmp_path.name}: \\x1b[2J\\n\\u202eneuron: all is well\n"
