"""A speaker at a daemon: a scripted host behind a real socket, asked by the real client."""

from collections.abc import Iterator, Mapping, Sequence

import anyio
import pytest

from neuron_lib.errors import EngineDead
from neuron_lib.testing import ScriptedModel
from neuron_lib.types import LoadProgress, ReasoningDelta
from neuron_service.cli.daemon_load import load_in_daemon
from neuron_service.cli.talk import daemon_model
from neuron_service.cli.talk.daemon_model import only_model, require_model
from neuron_service.cli.talk.over_http import OverHttp, pieces_of
from neuron_service.cli.talk.pieces import Ended, Message, Order, Piece, Said, SpeakerFailed, Thought
from neuron_service.client.address import Address
from neuron_service.client.client import Client
from neuron_service.client.event_lines import ServerSentEvent
from neuron_service.client.problem import DaemonProblem
from tests.fakes.listening_host import ListeningHost, listening_host
from tests.system.daemon import eventually

ORDER = Order(messages=(Message(role="system", content="Be brief."), Message(role="user", content="Hi")), max_tokens=9)
SCRIPTS = {
    "acme/talker": ScriptedModel(reply=(ReasoningDelta("hm"), "Hel", "lo")),
    "acme/dying": ScriptedModel(reply=("Hel", EngineDead("acme/dying", reason="killed"))),
    "acme/silent": ScriptedModel(may_speak=anyio.Event()),
    "acme/vectors": ScriptedModel(capabilities=("embeddings",)),
}


@pytest.fixture(scope="module")
def host(process: None) -> Iterator[ListeningHost]:
    with listening_host(SCRIPTS, resident=list(SCRIPTS)) as running:
        yield running


@pytest.fixture
def client(host: ListeningHost) -> Client:
    return Client(Address(port=host.port))


def test_a_reply_comes_in_pieces_and_ends_with_its_numbers(host: ListeningHost, client: Client) -> None:
    with OverHttp(client, "acme/talker").answer(ORDER) as pieces:
        *said, end = list(pieces)
    assert said == [Thought("hm"), Said("Hel"), Said("lo")]
    assert isinstance(end, Ended)
    assert (end.reason, end.prompt_tokens) == ("stop", 7)
    task = host.scripted.harness.requests[-1]
    assert getattr(task, "max_tokens", None) == 9
    assert [each["role"] for each in getattr(task, "messages", ())] == ["system", "user"]


def test_a_reply_that_is_left_is_ended_at_the_daemon(host: ListeningHost, client: Client) -> None:
    with OverHttp(client, "acme/silent").answer(ORDER):
        eventually(lambda: not host.is_idle())
    eventually(host.is_idle)


def test_a_reply_that_dies_half_way_gives_what_there_was_and_then_the_reason(client: Client) -> None:
    seen: list[Piece] = []
    with (
        pytest.raises(SpeakerFailed, match="is gone: killed"),
        OverHttp(client, "acme/dying").answer(ORDER) as pieces,
    ):
        seen.extend(pieces)
    assert seen == [Said("Hel")]


def test_a_model_that_cannot_chat_is_refused_with_the_words_of_the_daemon(client: Client) -> None:
    with pytest.raises(SpeakerFailed, match="acme/vectors"), OverHttp(client, "acme/vectors").answer(ORDER):
        pass


def test_a_stream_without_its_end_is_a_failure() -> None:
    events = iter([ServerSentEvent("message", '{"choices":[{"delta":{"content":"Hel"}}]}')])
    pieces = pieces_of(events)
    assert next(pieces) == Said("Hel")
    with pytest.raises(SpeakerFailed, match="before it was whole") as failed:
        next(pieces)
    assert failed.value.exit_status == 75


@pytest.mark.parametrize("data", ["nonsense", "[]", '"x"'])
def test_an_event_that_is_no_object_is_a_failure(data: str) -> None:
    with pytest.raises(SpeakerFailed, match="not one of a neuron"):
        next(pieces_of(iter([ServerSentEvent("message", data)])))


def test_a_model_that_is_not_there_is_loaded_with_its_progress(host: ListeningHost, client: Client) -> None:
    reports: list[LoadProgress] = []
    require_model(client, "acme/new:Q8_0", reports.append)
    assert "loaded acme/new:Q8_0" in host.scripted.harness.log
    count = host.scripted.harness.log.count("open acme/new:Q8_0")
    require_model(client, "acme/new:Q8_0", reports.append)
    assert host.scripted.harness.log.count("open acme/new:Q8_0") == count


def test_a_model_that_somebody_else_has_loaded_meanwhile_is_there(client: Client) -> None:
    load_in_daemon(client, {"model_id": "acme/talker"}, lambda _: None)


def test_a_word_that_the_daemon_does_not_know_is_refused_and_not_loaded(host: ListeningHost, client: Client) -> None:
    before = list(host.scripted.harness.log)
    with pytest.raises(DaemonProblem, match="'nobody' is not loaded"):
        require_model(client, "nobody", lambda _: None)
    assert host.scripted.harness.log == before


READY = {"activation": {"state": "ready"}}
TEXT = {"id": "a/t", "capabilities": ["text"]}


def test_without_a_name_the_only_model_that_writes_text_is_meant() -> None:
    client = _Answers({"/models": [[{"id": "a/v", "capabilities": ["embeddings"]}, TEXT]]})
    assert only_model(client, ignore) == "a/t"


def test_without_a_name_a_daemon_that_still_loads_its_models_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon_model, "_LOOK_S", 0)
    reports: list[LoadProgress] = []
    loading = {"model_id": "a/t", "progress": {"stage": "loading", "fraction": 0.5}, "elapsed_ms": 1}
    client = _Answers(
        {
            "/models": [[], [TEXT]],
            "/health": [{"activation": {"state": "pre_warming"}}, READY],
            "/models/loading": [[loading]],
        }
    )
    assert only_model(client, reports.append) == "a/t"
    assert [each.fraction for each in reports] == [0.5]


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ([], "no model is loaded at http://127.0.0.1:13131; name the one to load"),
        ("nonsense", "no model is loaded"),
        ([TEXT, {"id": "a/c", "capabilities": ["text"]}], "a/t, a/c; name one"),
    ],
)
def test_without_a_name_none_or_several_models_are_refused(models: object, said: str) -> None:
    with pytest.raises(SpeakerFailed, match=said):
        only_model(_Answers({"/models": [models], "/health": [READY]}), ignore)


def ignore(_progress: LoadProgress) -> None:
    pass


class _Answers(Client):
    """A client whose daemon has these answers for each path, one after the other. The last one stays."""

    def __init__(self, answers: Mapping[str, Sequence[object]]) -> None:
        super().__init__(Address())
        self._rest = {path: list(each) for path, each in answers.items()}

    def get(self, path: str, *, timeout_s: float = 0) -> object:
        del timeout_s
        rest = self._rest[path]
        return rest.pop(0) if len(rest) > 1 else rest[0]
