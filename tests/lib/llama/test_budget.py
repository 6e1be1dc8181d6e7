import pytest

from neuron_lib.llama import budget


@pytest.mark.parametrize(("allowed_bytes", "is_limit"), [(5, True), (1 << 62, False), (None, False)])
def test_what_is_available_is_no_more_than_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, allowed_bytes: int | None, *, is_limit: bool
) -> None:
    monkeypatch.setattr(budget, "allowed_by_cgroups", lambda: allowed_bytes)
    assert (budget._available_on_host() == allowed_bytes) is is_limit
