import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "test-with-scripted-harness.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def names_defined_on_the_page() -> dict[str, Any]:
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), names)  # noqa: S102 - the page's own code
    return names


TESTS: dict[str, Callable[[], Awaitable[None]]] = {
    name: value for name, value in names_defined_on_the_page().items() if name.startswith("test_")
}


@pytest.mark.anyio
@pytest.mark.parametrize("name", TESTS)
async def test_the_tests_on_the_page_pass(name: str) -> None:
    await TESTS[name]()
