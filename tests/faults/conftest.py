"""What breaks here runs as it does at a user's: an engine computes with a thread for each core."""

from collections.abc import Iterator

import pytest

from tests.conftest import THREAD_LIMIT


@pytest.fixture(scope="module", autouse=True)
def _a_thread_for_each_core() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(THREAD_LIMIT)
        yield
