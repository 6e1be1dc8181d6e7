import os
from pathlib import Path

import pytest

from neuron_lib.errors import PreflightFailed, PreflightKind
from neuron_lib.sources.template_file import MAX_TEMPLATE_BYTES, read_chat_template
from neuron_lib.text.chat_template import MAX_SOURCE_CHARS


def test_a_template_is_read_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "chat.jinja"
    path.write_bytes("{{ 'é' }}\r\n".encode())
    assert read_chat_template(path, model_id="org/name") == "{{ 'é' }}\r\n"


def test_a_byte_order_mark_is_no_part_of_the_template(tmp_path: Path) -> None:
    path = tmp_path / "chat.jinja"
    path.write_bytes(b"\xef\xbb\xbf{{ 1 }}")
    assert read_chat_template(path, model_id="org/name") == "{{ 1 }}"


def test_the_longest_template_that_can_be_compiled_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "chat.jinja"
    path.write_text("🦊" * MAX_SOURCE_CHARS, "utf-8")
    assert len(read_chat_template(path, model_id="org/name")) == MAX_SOURCE_CHARS


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file or directory"),
        (b"{{ \xff }}", r"not UTF-8 text \(byte 3\)"),
        # Cut in the middle of a character, it is too long all the same.
        ("🦊".encode() * (MAX_TEMPLATE_BYTES // 4) + b"\xf0", "longer than 1048576 bytes"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_key(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "chat.jinja"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PreflightFailed, match=rf"`chat_template` of 'org/name' .* {path}: {problem}") as caught:
        read_chat_template(path, model_id="org/name")
    assert (caught.value.kind, caught.value.model_id) == (PreflightKind.FILE_NOT_FOUND, "org/name")


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero"), tmp_path):
        with pytest.raises(PreflightFailed, match=r"not a regular file|Is a directory"):
            read_chat_template(path, model_id="org/name")
