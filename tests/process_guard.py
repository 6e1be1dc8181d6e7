"""Refuses to let a test that is not marked `process` start a process or open a network socket.

`pytest -m "not process"` relies on the marker, so a forgotten marker has to be an error. The interpreter reports each
of these acts as an audit event. An audit hook can never be removed, so there is one for the whole run, and it does
nothing while no test is watched. Sockets of the family AF_UNIX are allowed: no other test can hold their address.
"""

import reprlib
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

__all__ = ("add_audit_hook", "refuse_processes")

_ACTS: Final = {
    "os.fork": "forks",
    "os.forkpty": "forks",
    "os.posix_spawn": "starts a process",
    "os.system": "starts a process",
    "socket.bind": "binds a socket",
    "socket.connect": "connects a socket",
    "subprocess.Popen": "starts a process",
}
_refusals: list[str] | None = None
"""What the watched test was refused so far; None while no test is watched."""


def add_audit_hook() -> None:
    """Make `refuse_processes` work. Call it once in the life of the interpreter."""
    sys.addaudithook(_refuse)


@contextmanager
def refuse_processes() -> Iterator[None]:
    """Fail the test if the block, in whatever thread, starts a process or opens a network socket.

    The act itself raises `pytest.fail.Exception`. Where the code under test swallows that exception, the end of the
    block raises it again.
    """
    global _refusals  # noqa: PLW0603 - the audit hook belongs to the interpreter, so its state does as well
    _refusals = refusals = list[str]()
    try:
        yield
    finally:
        _refusals = None
        if refusals and not isinstance(sys.exception(), pytest.fail.Exception):
            pytest.fail(refusals[0], pytrace=False)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if _refusals is None or event not in _ACTS:
        return
    if event.startswith("socket.") and arguments[0].family == socket.AF_UNIX:
        return
    detail = reprlib.repr(arguments[1]) if len(arguments) > 1 else ""
    _refusals.append(
        f"this test {_ACTS[event]} ({detail}) and is not marked `process`. Let the fixture that does so request the "
        "fixture `process`, or mark the test with `pytest.mark.process`."
    )
    pytest.fail(_refusals[-1])
