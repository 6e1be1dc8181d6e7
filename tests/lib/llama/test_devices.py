import pytest

from neuron_lib.llama.devices import CPU, free_bytes, total_bytes


@pytest.mark.parametrize(("allowed_bytes", "is_limit"), [(5, True), (1 << 62, False), (None, False)])
def test_what_is_free_is_no_more_than_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, allowed_bytes: int | None, *, is_limit: bool
) -> None:
    monkeypatch.setattr("neuron_lib.usable_memory.allowed_by_cgroups", lambda: allowed_bytes)
    monkeypatch.setattr("neuron_lib.usable_memory.limit_of_cgroups", lambda: allowed_bytes)
    assert (free_bytes(CPU) == allowed_bytes) is is_limit
    assert (total_bytes(CPU) == allowed_bytes) is is_limit


def test_a_host_has_more_memory_than_it_has_free() -> None:
    assert 0 < free_bytes(CPU) < total_bytes(CPU)
