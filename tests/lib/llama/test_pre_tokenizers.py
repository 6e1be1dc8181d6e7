"""No text ends the process, whatever the pre-tokenizer: in a child, on a stack of a quarter of an engine's."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import llama_cpp
import pytest

from tests.fakes.tokenizer_child import KINDS, PRE_TOKENIZERS

pytestmark = pytest.mark.process

_STACK_BYTES: Final = 2 << 20
_LENGTH: Final = 12_000
"""Characters of one kind. Uncut they need 4 MB of stack wherever `std::regex` reads them as one match."""
_NAMES_OF_A_CHILD: Final = 7
_NAME: Final = re.compile(rb"(?<=\0)[a-z][a-z0-9._-]{2,30}(?=\0)")


def tokenize_in_child(path: Path, *names: str, length: int = _LENGTH) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.fakes.tokenizer_child", str(path), str(length), *names],
        env=os.environ | {"STACK_BYTES": str(_STACK_BYTES), "GGML_NO_BACKTRACE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.mark.parametrize("first", range(0, len(PRE_TOKENIZERS), _NAMES_OF_A_CHILD))
def test_no_text_ends_a_tokenizer(synthetic_paths: Mapping[str, Path], first: int) -> None:
    names = PRE_TOKENIZERS[first : first + _NAMES_OF_A_CHILD]
    child = tokenize_in_child(synthetic_paths["full"], *names)
    read = [line.rsplit(" ", 1)[0] for line in child.stdout.splitlines()]
    expected = [line for name in names for line in (name, *(f"{name} {kind}" for kind in KINDS))]
    assert (read, child.returncode) == (expected, 0), child.stderr


def test_each_name_that_the_library_knows_is_tried(synthetic_paths: Mapping[str, Path]) -> None:
    (library,) = (Path(llama_cpp.__file__).parent / "lib").glob("libllama.so")
    words = sorted({name.decode() for name in _NAME.findall(library.read_bytes())})
    assert len(words) > len(PRE_TOKENIZERS)
    child = tokenize_in_child(synthetic_paths["full"], *words, length=0)
    known = {line.removesuffix(" loaded") for line in child.stdout.splitlines() if line.endswith(" loaded")}
    assert child.returncode == 0
    assert known
    assert known <= set(PRE_TOKENIZERS)
