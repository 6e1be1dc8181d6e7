from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.documents import blocks

PAGE = "docs/how-to/test-with-scripted-harness.md"


def names_defined_on_the_page() -> dict[str, Any]:
    names: dict[str, Any] = {}
    for block in blocks(PAGE, "python"):
        exec(compile(block, PAGE, "exec"), names)  # noqa: S102 - the page's own code
    return names


TESTS: dict[str, Callable[[], Awaitable[None]]] = {
    name: value for name, value in names_defined_on_the_page().items() if name.startswith("test_")
}


@pytest.mark.anyio
@pytest.mark.parametrize("name", TESTS)
async def test_the_tests_on_the_page_pass(name: str) -> None:
    await TESTS[name]()
