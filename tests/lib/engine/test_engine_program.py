"""The engine as a program: what it makes of its surroundings, and how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest

from neuron_lib.config import LlamaCppConfig
from neuron_lib.engine.protocol import (
    Beat,
    Cancel,
    ChatTask,
    Fatal,
    Limits,
    Ready,
    Report,
    Submit,
    Work,
    encode_frame,
    report_decoder,
)
from neuron_lib.llamacpp.harness import load_command
from neuron_lib.sources.store import LocalModel
from neuron_lib.types import Grammar, Sampling
from tests.fakes.synthetic_gguf import write_synthetic
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[3]
ENGINE = ("-m", "neuron_lib.engine")


@contextmanager
def started(command: Sequence[str]) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """A Python of our own with `--fd N` appended, and our end of its socket; killed at the end."""
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(PATIENCE_S)
        with theirs:
            engine = subprocess.Popen(
                [sys.executable, *command, "--fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stderr=subprocess.DEVNULL,
                cwd=ROOT,
            )
        try:
            yield engine, ours
        finally:
            engine.kill()
            engine.wait()


def reports(sock: socket.socket) -> Iterator[Report]:
    decoder = report_decoder()
    while data := sock.recv(1 << 16):
        yield from decoder.feed(data)


@pytest.fixture
def _deaf_host() -> Iterator[None]:
    """A program that blocks and ignores the signals that an engine needs, as its children will."""
    needed = (signal.SIGABRT, signal.SIGALRM, signal.SIGCHLD, signal.SIGPROF)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in needed}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, needed)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.usefixtures("_deaf_host")
def test_an_engine_hears_signals_whatever_the_host_blocks_and_ignores() -> None:
    with started(ENGINE) as (engine, sock):
        assert any(isinstance(report, Beat) for report in reports(sock))
        status = Path(f"/proc/{engine.pid}/status").read_text(encoding="ascii")
    sets = {name: int(value, 16) for name, value in re.findall(r"^Sig(Blk|Ign):\s+(\w+)$", status, re.MULTILINE)}
    assert sets["Blk"] == 0
    for number in (signal.SIGABRT, signal.SIGALRM, signal.SIGCHLD, signal.SIGPROF):
        assert not sets["Ign"] >> (number - 1) & 1, number.name


def test_an_engine_leaves_hang_ups_and_interrupts_to_the_daemon() -> None:
    with started(ENGINE) as (engine, sock):
        heard = reports(sock)
        assert isinstance(next(heard), Beat)
        for number in (signal.SIGHUP, signal.SIGINT):
            engine.send_signal(number)
            assert isinstance(next(heard), Beat)
        assert engine.poll() is None


SPEECHLESS_ENGINE = """
from neuron_lib.engine import __main__ as program
def fail(*_):
    raise MemoryError
program.message_of = program.bytes_resident = fail
program.main()
"""


def test_an_engine_that_cannot_even_say_why_it_fails_ends_all_the_same() -> None:
    with started(("-c", SPEECHLESS_ENGINE)) as (engine, sock):
        assert list(reports(sock)) == []
        assert engine.wait(timeout=PATIENCE_S) == os.EX_SOFTWARE


THREADLESS_ENGINE = """
import sys, threading
from neuron_lib.engine.__main__ import main
name, start = sys.argv.pop(1), threading.Thread.start
def start_or_fail(self):
    if self.name == name:
        raise RuntimeError("can't start new thread")  # as of CPython
    start(self)
threading.Thread.start = start_or_fail
main()
"""


@pytest.mark.parametrize("thread", ["daemon watch", "engine"])
def test_an_engine_that_the_host_has_no_thread_for_ends_as_one_to_be_tried_again(thread: str) -> None:
    load = load_command(LlamaCppConfig(), LocalModel(path=Path("/nowhere.gguf")), environ={})
    with started(("-c", THREADLESS_ENGINE, thread)) as (engine, sock):
        sock.sendall(encode_frame(load))
        assert Fatal("RuntimeError: can't start new thread") in reports(sock)
        assert engine.wait(timeout=PATIENCE_S) == os.EX_TEMPFAIL


SHALLOW_ENGINE = """
import os, sys
from neuron_lib.engine.process import deepen_stack
from neuron_lib.llama.bindings import init_backend, route_logs
from neuron_lib.llama.vocab import Vocab
from tests.fakes.tokenizer_child import load
init_backend()
route_logs(lambda *_: None)
vocab = Vocab(load(sys.argv[1], "gpt-4o"))
deepen_stack(8 << 20)
os._exit(not vocab.tokenize("a" * 100_000, add_special=True))
"""


@pytest.mark.model
def test_the_main_thread_tokenizes_whatever_the_shell_s_limit_of_its_stack_is(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "m.gguf", "full")
    command = f'ulimit -Ss 512 && exec "{sys.executable}" -c "$0" "{tmp_path}/m.gguf"'
    child = subprocess.run(["/bin/sh", "-c", command, SHALLOW_ENGINE], cwd=ROOT, timeout=300, check=False)
    assert child.returncode == 0


HANGING_COMPILER = """
import time
from neuron_lib.engine import __main__ as program
program.GrammarCompiler.compile = lambda *_: time.sleep(1000)
program.main()
"""
BROKEN_GRAMMAR_THREAD = """
from neuron_lib.engine import __main__ as program
def fail(*_):
    raise ZeroDivisionError("in the grammar thread")
program.GrammarCompiler.compile = fail
program.main()
"""


@contextmanager
def given_a_grammar(
    script: str, folder: Path
) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket, Iterator[Report]]]:
    """An engine with a small model and a request that must be in a grammar, and what it says from then on."""
    write_synthetic(folder / "m.gguf", "full")
    load = load_command(LlamaCppConfig(n_ctx=256), LocalModel(path=folder / "m.gguf"), environ={})
    bound = Submit(
        request=1,
        task=ChatTask(messages=({"role": "user", "content": "hello"},), grammar=Grammar("regex", "a+")),
        sampling=Sampling(temperature=0, seed=0),
        limits=Limits(prompt_tokens=100, reply_tokens=9),
    )
    with started(("-c", script)) as (engine, sock):
        inbox = reports(sock)
        sock.sendall(encode_frame(load))
        assert any(isinstance(report, Ready) for report in inbox)
        sock.sendall(encode_frame(bound))
        yield engine, sock, islice(inbox, 30)  # it beats for ever


@pytest.mark.model
def test_a_grammar_that_hangs_is_in_the_beats_though_its_request_was_cancelled(tmp_path: Path) -> None:
    with given_a_grammar(HANGING_COMPILER, tmp_path) as (_, sock, inbox):
        assert any(isinstance(report, Beat) and Work("a grammar", 0, 1) in report.work for report in inbox)
        sock.sendall(encode_frame(Cancel(1)))
        for report in islice(inbox, 2):
            assert isinstance(report, Beat)
            assert Work("a grammar", 0, 1) in report.work


@pytest.mark.model
def test_an_engine_ends_with_its_grammar_thread(tmp_path: Path) -> None:
    with given_a_grammar(BROKEN_GRAMMAR_THREAD, tmp_path) as (engine, _, inbox):
        assert Fatal("ZeroDivisionError: in the grammar thread") in inbox
        assert engine.wait(timeout=PATIENCE_S) == os.EX_SOFTWARE
