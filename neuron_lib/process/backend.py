"""The backend `process` as a service offers it. Importing this loads no harness."""

from collections.abc import Mapping
from typing import Final

from neuron_lib.backend import Backend, HarnessSetup
from neuron_lib.harness import Harness
from neuron_lib.placement import MORE_THAN_ALL_GPUS, device_indices
from neuron_lib.process.entry import ProcessEntry
from neuron_lib.types import ModelSpec

__all__ = ("PROCESS",)


def _make(entry: ProcessEntry, setup: HarnessSetup) -> Harness:
    from neuron_lib.process.harness import ProcessHarness  # noqa: PLC0415 - takes longer than all that a probe needs

    return ProcessHarness(
        entry,
        models=setup.models,
        store=setup.store,
        environ=setup.environ,
        gpu_memory_mb=setup.gpu_memory_mb,
        max_prompt_tokens=setup.max_prompt_tokens,
        ends_with_thread=setup.ends_with_thread,
    )


def _check_spec(spec: ModelSpec) -> None:
    device_indices(spec, gpu_count=MORE_THAN_ALL_GPUS)


def _check_entry(entry: ProcessEntry, environ: Mapping[str, str]) -> None:
    from neuron_lib.process.presence import require_program  # noqa: PLC0415 - a start looks at this later

    require_program(entry, environ)


PROCESS: Final = Backend(
    name="process",
    struct=ProcessEntry,
    has_many=True,
    make=_make,
    check_spec=_check_spec,
    check_entry=_check_entry,
)
