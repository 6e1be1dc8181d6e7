import errno
import os

import pytest

from neuron_lib.errors import LoadFailed, NeuronError, PreflightFailed, SourceUnavailable
from neuron_lib.os_errors import file_error, is_exhausted, start_error

PASSING = [OSError(number, os.strerror(number)) for number in (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM)]
STAYING = [OSError(number, os.strerror(number)) for number in (errno.ENOENT, errno.EACCES, errno.ENOEXEC)]


@pytest.mark.parametrize("error", [*PASSING, RuntimeError("can't start new thread")], ids=str)
def test_a_host_without_means_is_exhausted(error: BaseException) -> None:
    assert is_exhausted(error)


@pytest.mark.parametrize("error", [*STAYING, RuntimeError("a bug"), ValueError("can't start new thread")], ids=str)
def test_any_other_error_is_no_exhaustion(error: BaseException) -> None:
    assert not is_exhausted(error)


@pytest.mark.parametrize("error", PASSING, ids=str)
def test_exhaustion_is_worth_a_retry(error: OSError) -> None:
    found: list[NeuronError] = [file_error(error, "m", model_id="o/n"), start_error(error, "an engine", model_id="o/n")]
    assert [(type(e), e.message) for e in found] == [
        (SourceUnavailable, "m"),
        (SourceUnavailable, "o/n: an engine cannot be started"),
    ]


@pytest.mark.parametrize("error", STAYING, ids=str)
def test_an_error_that_stays_is_not(error: OSError) -> None:
    found: list[NeuronError] = [file_error(error, "m", model_id="o/n"), start_error(error, "an engine", model_id="o/n")]
    assert [(type(e), e.message, e.fields["model_id"]) for e in found] == [
        (PreflightFailed, "m", "o/n"),
        (LoadFailed, "an engine cannot be started", "o/n"),
    ]
