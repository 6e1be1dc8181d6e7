"""What an error of the operating system about a file means for a load. Raises nothing itself."""

from neuron_lib.errors import PreflightFailed, PreflightKind, SourceUnavailable
from neuron_lib.exhaustion import is_exhausted

__all__ = ("file_error",)


def file_error(error: OSError, message: str, *, model_id: str) -> PreflightFailed | SourceUnavailable:
    """What to raise for a file that cannot be opened or read.

    `FILE_NOT_FOUND`, or `SourceUnavailable` where a retry may help.
    """
    if is_exhausted(error):
        return SourceUnavailable(message, model_id=model_id)
    return PreflightFailed(PreflightKind.FILE_NOT_FOUND, message, model_id=model_id)
