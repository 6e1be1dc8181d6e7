"""Models for the tests of the facade: a synthetic one of each memory kind, and a context to compute in.

synthetic_paths   kind to GGUF file, see `tests.fakes.synthetic_gguf`
synthetic_models  kind to loaded model
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from neuron_lib.llama.bindings import init_backend, route_logs
from neuron_lib.llama.model import Model
from tests.fakes.synthetic_gguf import KINDS, write_synthetic


@pytest.fixture(scope="session")
def synthetic_paths(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("synthetic")
    paths = {kind: folder / f"{kind}.gguf" for kind in KINDS}
    for kind, path in paths.items():
        write_synthetic(path, kind)
    return paths


@pytest.fixture(scope="session")
def synthetic_models(synthetic_paths: Mapping[str, Path]) -> Iterator[Mapping[str, Model]]:
    init_backend()
    route_logs(lambda _level, _text: None)
    with ExitStack() as stack:
        yield {
            kind: stack.enter_context(Model(path, gpu_layers=0, on_progress=lambda _fraction: True))
            for kind, path in synthetic_paths.items()
        }
