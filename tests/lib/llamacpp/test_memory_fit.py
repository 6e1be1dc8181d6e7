from neuron_lib.errors import PreflightKind
from neuron_lib.llamacpp.memory_fit import does_not_fit, on_host
from neuron_lib.types import DeviceNeed, MemoryPlan

MIB = 1 << 20


def need(device: str, *, needed_mb: int, free_mb: int) -> DeviceNeed:
    return DeviceNeed(
        device=device, weights_bytes=needed_mb * MIB, context_bytes=0, compute_bytes=0, free_bytes=free_mb * MIB
    )


def plan(*devices: DeviceNeed) -> MemoryPlan:
    return MemoryPlan(devices=devices, layers=4, gpu_layers=5, n_ctx=512, native_context=8192, seats=2)


def test_gpus_have_the_numbers_of_the_host() -> None:
    seen = plan(
        need("cpu", needed_mb=1, free_mb=9), need("gpu0", needed_mb=2, free_mb=9), need("gpu1", needed_mb=3, free_mb=9)
    )
    assert on_host(seen, gpus=(2, 0)).needs == {"cpu": MIB, "gpu2": 2 * MIB, "gpu0": 3 * MIB}


def test_a_plan_fits_if_it_fits_on_every_device() -> None:
    fitting, lacking = need("cpu", needed_mb=9, free_mb=9), need("gpu0", needed_mb=10, free_mb=9)
    assert plan(fitting).fits
    assert not plan(fitting, lacking).fits


def test_a_refusal_names_the_device_that_lacks_most_with_what_is_needed_and_free() -> None:
    lacking = plan(need("cpu", needed_mb=10, free_mb=9), need("gpu0", needed_mb=100, free_mb=40))
    refusal = does_not_fit(lacking, model_id="org/name")
    assert refusal.kind is PreflightKind.INSUFFICIENT_MEMORY
    assert refusal.fields == {
        "model_id": "org/name",
        "device": "gpu0",
        "needed_bytes": 100 * MIB,
        "free_bytes": 40 * MIB,
        "needed_mb": 100,
        "free_mb": 40,
    }
    assert "needs 105 MB on gpu0, where 42 MB are free" in refusal.message
    assert "already loaded" not in refusal.message
