"""Whether systemd's journal reads a stream, and how a line tells it how grave it is. Pure but for asking the kernel."""

import os
from collections.abc import Mapping
from typing import Final, TextIO

__all__ = ("ERROR_PRIORITY", "is_journal", "with_priority")

ERROR_PRIORITY: Final = 3
"""Of syslog(3). `journalctl -p err` and `journalctl -p warning` show it."""


def is_journal(stream: TextIO | None, environ: Mapping[str, str]) -> bool:
    """Whether systemd reads `stream` for the journal: `JOURNAL_STREAM` names the device and inode of the stream that it
    gave to its service (systemd.exec(5)). A service that has redirected its stderr inherits the variable all the same.
    """
    try:
        device, inode = map(int, environ.get("JOURNAL_STREAM", "").split(":"))
        status = os.fstat(stream.fileno()) if stream is not None else None
    except (OSError, ValueError):  # not set, or a stream without a file behind it
        return False
    return status is not None and (status.st_dev, status.st_ino) == (device, inode)


def with_priority(line: str, priority: int) -> str:
    """A line for the journal, which takes the priority off again."""
    return f"<{priority}>{line}"
