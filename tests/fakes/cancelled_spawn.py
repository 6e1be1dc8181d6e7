"""A spawn whose caller is cancelled when the process is there and `anyio.open_process` has not returned yet."""

from typing import Any

import anyio
import pytest
from anyio.abc import Process
from anyio.lowlevel import checkpoint

__all__ = ("cancel_in_the_spawn",)


def cancel_in_the_spawn(monkeypatch: pytest.MonkeyPatch, scope: anyio.CancelScope) -> None:
    """Have the next process cancel `scope` by being started."""
    spawn = anyio.open_process

    async def open_process(*arguments: Any, **options: Any) -> Process:
        process = await spawn(*arguments, **options)
        scope.cancel()
        await checkpoint()
        return process

    monkeypatch.setattr(anyio, "open_process", open_process)
