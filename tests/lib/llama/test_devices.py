import pytest

from neuron_lib.errors import LoadFailed
from neuron_lib.llama.devices import CPU, free_bytes, total_bytes, use_rpc, wanted_handles
from neuron_lib.types import RpcDevice


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


def test_a_llama_cpp_without_rpc_says_how_to_get_one_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuron_lib.llama.devices.can_use_rpc", lambda: False)
    with pytest.raises(LoadFailed, match=r"built without RPC, .* install llama-cpp-python again with CMAKE_ARGS"):
        use_rpc((RpcDevice("127.0.0.1:50052", 0),))
    use_rpc(())
    assert wanted_handles(beside_gpus=True) is None
