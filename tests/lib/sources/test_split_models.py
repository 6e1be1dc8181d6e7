"""A split model of which only the first file is named: libllama looks for the others beside it, so we do first."""

from pathlib import Path

import pytest

from neuron_lib.errors import PreflightFailed, PreflightKind
from neuron_lib.sources.gguf_header import check_model
from tests.fakes.gguf_bytes import entry, gguf, u16, u64


def write_part(folder: Path, number: int, *, name: str | None = None) -> Path:
    metadata = [entry("split.no", u16(number - 1), 2), entry("split.count", u16(3), 2)]
    if number == 1:
        metadata.append(entry("general.architecture", "llama"))
    path = folder / (name or f"m-{number:05}-of-00003.gguf")
    path.write_bytes(gguf(metadata))
    return path


def refusal(path: Path) -> PreflightFailed:
    with pytest.raises(PreflightFailed) as raised:
        check_model([path], model_id="org/name")
    return raised.value


def test_all_parts_are_checked(tmp_path: Path) -> None:
    first, _, third = (write_part(tmp_path, number) for number in (1, 2, 3))
    assert check_model([first], model_id="org/name").split_count == 3
    third.write_bytes(b"GGUF")
    assert refusal(first).kind is PreflightKind.INVALID_GGUF
    assert str(third) in refusal(first).message


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    first, third = write_part(tmp_path, 1), write_part(tmp_path, 3)
    error = refusal(first)
    assert error.kind is PreflightKind.FILE_NOT_FOUND
    assert "m-00002-of-00003.gguf" in error.message
    assert check_model([first, third], model_id="org/name").split_no == 0  # all are named


def test_parts_without_number_end_at_the_first_that_is_missing(tmp_path: Path) -> None:
    first = tmp_path / f"m-00001-of-{2**63}.gguf"
    first.write_bytes(gguf([entry("general.architecture", "llama"), entry("split.count", u64(2**63), 10)]))
    assert f"m-00002-of-{2**63}.gguf" in refusal(first).message


@pytest.mark.parametrize(("number", "name"), [(2, None), (1, "model.gguf"), (1, "m-00001-of-00004.gguf")])
def test_what_cannot_be_found_from_its_name_is_refused(tmp_path: Path, number: int, name: str | None) -> None:
    error = refusal(write_part(tmp_path, number, name=name))
    assert error.kind is PreflightKind.INVALID_GGUF
    assert f"part {number} of 3" in error.message
