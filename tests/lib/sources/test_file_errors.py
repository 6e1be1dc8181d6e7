"""A host that is out of descriptors or memory says nothing about the files of a model."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from neuron_lib.errors import NeuronError, PreflightFailed, PreflightKind, SourceUnavailable
from neuron_lib.sources import package
from neuron_lib.sources.download import disk_error
from neuron_lib.sources.gguf_header import check_gguf
from neuron_lib.sources.package import find_package_file
from neuron_lib.sources.template_file import read_chat_template

READERS: dict[str, Callable[[], object]] = {
    "header": lambda: check_gguf(Path("/m.gguf"), model_id="o/n"),
    "template": lambda: read_chat_template(Path("/m.jinja"), model_id="o/n"),
    "package": lambda: find_package_file("carrier/m.gguf", model_id="o/n"),
}
EXHAUSTION = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def failure(read: Callable[[], object], number: int) -> NeuronError:
    """What a reader raises on a host whose every attempt to open something fails with this number."""

    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", fail)
        patch.setattr(package, "find_spec", fail)
        with pytest.raises(NeuronError) as raised:
            read()
    return raised.value


@pytest.mark.parametrize("number", EXHAUSTION, ids=os.strerror)
@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_cannot_be_opened_for_want_of_descriptors_or_memory_is_worth_a_retry(
    reader: str, number: int
) -> None:
    error = failure(READERS[reader], number)
    assert isinstance(error, SourceUnavailable)
    assert os.strerror(number) in error.message


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EIO], ids=os.strerror)
@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_cannot_be_opened_for_another_reason_is_refused_with_it(reader: str, number: int) -> None:
    error = failure(READERS[reader], number)
    assert isinstance(error, PreflightFailed)
    assert error.kind is PreflightKind.FILE_NOT_FOUND
    assert os.strerror(number) in error.message


@pytest.mark.parametrize("number", EXHAUSTION, ids=os.strerror)
def test_a_fetch_that_runs_out_of_descriptors_or_memory_is_worth_a_retry(number: int) -> None:
    error = disk_error(OSError(number, os.strerror(number)), Path("/cache"), model_id="o/n")
    assert isinstance(error, SourceUnavailable)
    assert error.message == f"o/n: /cache: {os.strerror(number)}"
