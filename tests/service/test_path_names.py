"""The paths under which requests are counted are those of the description of the service."""

import pytest

from neuron_service.app import operations
from neuron_service.path_names import _NAMES, OTHER, path_name

DESCRIBED = {operation.path for operation in operations()} | {"/openapi.json"}


def test_every_path_that_is_answered_has_its_own_name() -> None:
    assert {path_name(path.replace("{model_id}", "org/name")) for path in DESCRIBED} == DESCRIBED


def test_there_is_no_name_of_a_path_that_is_not_answered() -> None:
    assert DESCRIBED >= _NAMES


@pytest.mark.parametrize(
    "path", ["", "/page", "/nothing", "/v1/nothing", "/health/", "/models", "/.env", "/MODELS/load"]
)
def test_all_other_paths_have_one_name(path: str) -> None:
    assert path_name(path) == (path if path == "/models" else OTHER)


@pytest.mark.parametrize("model_id", ["a", "org/name", "org/endpoint", "a/b/c/d", "x" * 9999])
def test_the_id_of_a_model_is_no_part_of_a_name(model_id: str) -> None:
    assert path_name(f"/models/{model_id}/endpoint") == "/models/{model_id}/endpoint"
    assert path_name(f"/v1/models/{model_id}") == "/v1/models/{model_id}"
