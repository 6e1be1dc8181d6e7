"""A call of a daemon that failed."""

__all__ = ("DaemonProblem",)


class DaemonProblem(Exception):
    """A call that failed. `str()` is one sentence that says what, where and the next step.

    `status` is that of the answer, None if there was none. `code` is the daemon's short name of the error, if it gave
    one. `exit_status` is one of sysexits.h, or 1 for a request that will be refused again.
    """

    def __init__(self, message: str, *, exit_status: int, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.exit_status = exit_status
        self.status = status
        self.code = code
