import pytest

from tests.clients import matrix
from tests.clients.client import FEATURES, LOCKS, Client, Outcome, versions
from tests.clients.matrix import CLIENTS, surprises, table

CLIENT = Client("openai", "openai", "openai_python.py", ("openai",))


def outcomes(**changed: Outcome) -> dict[str, Outcome]:
    return {feature: changed.get(feature, Outcome("ok", "")) for feature in FEATURES}


def test_a_failure_is_a_surprise_and_a_missing_feature_is_none() -> None:
    found = outcomes(chat=Outcome("fail", "TypeError: no"), models=Outcome("none", "has none"))
    assert surprises({CLIENT: found}) == ["openai, chat: fail TypeError: no"]


def test_a_known_failure_is_no_surprise_until_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "KNOWN", {("openai", "chat"): "a reason"})
    assert surprises({CLIENT: outcomes(chat=Outcome("fail", "TypeError: no"))}) == []
    assert surprises({CLIENT: outcomes()}) == ["openai, chat: ok"]


def test_the_table_gives_the_reason_for_every_cell_that_is_not_green() -> None:
    text = table({CLIENT: outcomes(chat=Outcome("fail", "TypeError: no"), models=Outcome("none", "it has none"))})
    assert f"| feature | openai {versions(CLIENT)[0]} |" in text
    assert "| chat | ✗ |" in text
    assert "- openai, models: it has none." in text
    assert "- openai, chat: TypeError: no." in text


def test_every_lock_of_a_client_is_tried() -> None:
    locks = {path.stem for path in LOCKS.glob("*.txt")} | {path.parent.name for path in LOCKS.glob("*/package.json")}
    assert {client.lock for client in CLIENTS} == locks
    assert all(versions(client) for client in CLIENTS)
