"""Whether systemd's journal reads a stream, and the priority in front of a line for it.

Pure, except that the kernel is asked which file a stream is.
"""

import os
from collections.abc import Mapping
from typing import Final, TextIO

__all__ = ("ERROR_PRIORITY", "is_journal", "with_priority")

ERROR_PRIORITY: Final = 3
"""The priority of syslog(3). `journalctl -p err` and `journalctl -p warning` show such lines."""


def is_journal(stream: TextIO | None, environ: Mapping[str, str]) -> bool:
    """Whether systemd reads `stream` for the journal.

    `JOURNAL_STREAM` names the device and the inode of the stream that systemd gave to its service (systemd.exec(5)). A
    service whose stderr was redirected has the variable too, so the stream is compared.
    """
    try:
        device, inode = map(int, environ.get("JOURNAL_STREAM", "").split(":"))
        status = os.fstat(stream.fileno()) if stream is not None else None
    except (OSError, ValueError):  # not set, or a stream without a file
        return False
    return status is not None and (status.st_dev, status.st_ino) == (device, inode)


def with_priority(line: str, priority: int) -> str:
    """A line with a priority, which the journal removes again."""
    return f"<{priority}>{line}"
