"""The backend `remote` as a service offers it. Importing this loads no harness."""

from typing import Final

from neuron_lib.backend import Backend, HarnessSetup
from neuron_lib.harness import Harness
from neuron_lib.remote.entry import RemoteEntry, refuse_what_another_host_decides

__all__ = ("REMOTE",)


def _make(entry: RemoteEntry, setup: HarnessSetup) -> Harness:
    from neuron_lib.remote.harness import RemoteHarness  # noqa: PLC0415 - takes longer than all that a probe needs

    return RemoteHarness(entry, environ=setup.environ)


REMOTE: Final = Backend(
    name="remote", struct=RemoteEntry, has_many=True, make=_make, check_spec=refuse_what_another_host_decides
)
