import pytest

from scripts.release import State, find_faults, find_faults_of_artefacts, why_not_next, with_version

READY = State(
    version="0.2.0",
    head="abc",
    uncommitted=(),
    tags={"v0.1.0": "012"},
    changelog="# Changelog\n\n## [0.2.0] - 2027-01-31\n\n### Added\n",
    fragments=(),
    home="https://git.example.org/neuron",
)


def test_a_checkout_that_is_ready_lacks_nothing() -> None:
    assert list(find_faults(READY)) == []
    assert list(find_faults(READY._replace(tags={"v0.2.0": "abc"}))) == []


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (READY._replace(version="0.2.0.dev0"), "make release VERSION="),
        (READY._replace(changelog="# Changelog\n\n## [0.2.0.1] - 2027-01-31\n"), "no section for 0.2.0"),
        (READY._replace(changelog="## [0.2.0]\n"), "no section for 0.2.0"),
        (READY._replace(fragments=("+x.added.md",)), "+x.added.md"),
        (READY._replace(uncommitted=("README.md",)), "README.md"),
        (READY._replace(tags={"v0.2.0": "def"}), "released once"),
        (READY._replace(home=""), "home"),
    ],
)
def test_what_is_missing_is_said_once(state: State, said: str) -> None:
    (fault,) = find_faults(state)
    assert said in fault


def test_dist_has_the_two_files_of_the_version_and_no_others() -> None:
    wheel, sdist = "neuron_node-0.2.0-py3-none-any.whl", "neuron_node-0.2.0.tar.gz"
    assert list(find_faults_of_artefacts("0.2.0", frozenset({wheel, sdist}))) == []
    (missing,) = find_faults_of_artefacts("0.2.0", frozenset({wheel}))
    assert sdist in missing
    (other,) = find_faults_of_artefacts("0.2.0", frozenset({wheel, sdist, "neuron_node-0.1.0.tar.gz"}))
    assert "neuron_node-0.1.0.tar.gz" in other


def test_the_next_version_is_a_later_one_in_its_usual_spelling() -> None:
    assert why_not_next("0.2.0", current="0.2.0.dev0") is None
    assert why_not_next("0.3.0.dev0", current="0.2.0") is None
    assert "not after" in (why_not_next("0.2.0", current="0.2.0") or "")
    assert "no version" in (why_not_next("two", current="0.2.0") or "")
    assert "write 0.3.0" in (why_not_next("v0.3.0", current="0.2.0") or "")


def test_the_version_is_set_in_its_one_line() -> None:
    assert with_version('"""Doc."""\n\n__version__ = "0.2.0.dev0"\n', "0.2.0").endswith('\n__version__ = "0.2.0"\n')
    with pytest.raises(ValueError, match="0 lines"):
        with_version("version = 1\n", "0.2.0")
