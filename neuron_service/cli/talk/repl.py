"""The loop of `neuron chat`: reads what is typed, acts, and shows the reply."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from msgspec.structs import replace

from neuron_service.cli.talk.conversation import (
    LARGEST_FILE_BYTES,
    Conversation,
    MalformedConversation,
    decode_conversation,
    encode_conversation,
)
from neuron_service.cli.talk.pieces import Order, Speaker, SpeakerFailed
from neuron_service.cli.talk.screen import Screen, harmless, numbers_of, take_reply
from neuron_service.cli.talk.typed import (
    COMMANDS,
    Clear,
    Help,
    Leave,
    Load,
    Meant,
    Retry,
    Save,
    Say,
    System,
    Wrong,
    meaning,
    read_message,
)

__all__ = ("Repl",)

_HELP: Final = """\
A line is sent when you press Enter. Lines between two \"\"\" are one message, and so are a line that ends with \\ and
the next line. Ctrl-C stops a reply, and the part that you have seen stays in the conversation."""


class Repl:
    """One conversation of a person with a model. Lives until the person leaves. Belongs to one thread."""

    def __init__(
        self,
        speaker: Speaker,
        order: Order,
        *,
        screen: Screen,
        read_line: Callable[[Literal["first", "next"]], str],
        folder: Path,
        wants_numbers: bool = False,
    ) -> None:
        """`order` has the options of each reply, and perhaps a system prompt. Files are relative to `folder`."""
        self._speaker = speaker
        self._order = order
        self._screen = screen
        self._read_line = read_line
        self._folder = folder
        self._wants_numbers = wants_numbers
        self.conversation = Conversation(system=order.messages[0].content if order.messages else None)

    def run(self) -> None:
        """Talk until the person leaves. A reply that fails, and a file that cannot be used, end nothing."""
        while True:
            try:
                meant = meaning(read_message(self._read_line))
                if isinstance(meant, Leave):
                    return
                if meant is not None:
                    self._act(meant)
            except EOFError:
                self._screen.gap()  # the cursor stands behind the prompt
                return
            except KeyboardInterrupt:
                self._screen.gap()
                self._screen.note("Ctrl-D or /bye leaves")

    def _act(self, meant: Meant) -> None:
        match meant:
            case Say(text):
                self._say(text)
            case Retry():
                self._retry()
            case System(text):
                self._set_system(text)
            case Load(path):
                self._with_file(path, self._load)
            case Save(path):
                self._with_file(path, self._save)
            case Clear():
                self.conversation.turns.clear()
                self._screen.note("everything that was said is forgotten")
            case Wrong(reason):
                self._screen.note(reason)
            case Help():
                self._screen.note("\n".join((*COMMANDS.values(), "", _HELP)))

    def _say(self, text: str) -> bool:
        """Have a message answered. Returns whether there was a reply, which is then part of the conversation."""
        order = replace(self._order, messages=self.conversation.with_user(text))
        try:
            reply = take_reply(self._speaker, order, self._screen)
        except SpeakerFailed as failure:
            self._screen.note(f"{failure} (the message is not part of the conversation)")
            return False
        if reply.ended is None:
            self._screen.note("stopped" if reply.text else "stopped before the first word; the message was taken back")
        elif reply.ended.reason == "length":
            self._screen.note("the reply was cut at its limit of tokens")
        if reply.ended is not None and self._wants_numbers:
            self._screen.note(numbers_of(reply.ended))
        self._screen.gap()
        if reply.ended is None and not reply.text:
            return False
        self.conversation.add(text, reply.text)
        return True

    def _retry(self) -> None:
        before = list(self.conversation.turns)
        text = self.conversation.take_back()
        if text is None:
            self._screen.note("nothing was said yet")
        elif not self._say(text):
            self.conversation.turns = before

    def _set_system(self, text: str | None) -> None:
        if text is not None:
            self.conversation.system = text or None
        system = self.conversation.system
        self._screen.note("there is no system prompt" if system is None else f"the system prompt: {harmless(system)}")

    def _with_file(self, typed: str, act: Callable[[Path], None]) -> None:
        if "\0" in typed:
            self._screen.note("the name of a file has no NUL")
            return
        try:
            path = Path(typed).expanduser()
        except RuntimeError:  # there is no user of this name
            self._screen.note(f"{typed}: ~ stands for no directory here; write the whole path")
            return
        act(self._folder / path)

    def _load(self, path: Path) -> None:
        try:
            loaded = decode_conversation(_read(path))
        except OSError as error:
            self._screen.note(f"{path} cannot be read: {error.strerror or error}")
        except MalformedConversation as error:
            self._screen.note(f"{path} cannot be used: {error}")
        else:
            self.conversation = loaded
            count = len(loaded.turns) // 2
            self._screen.note(
                "1 message and its reply are back" if count == 1 else f"{count} messages and their replies are back"
            )

    def _save(self, path: Path) -> None:
        try:
            if path.exists():
                decode_conversation(_read(path))  # any other file must not be lost by a slip of the finger
            _write(path, encode_conversation(self.conversation, model_id=self._speaker.model_id))
        except OSError as error:
            self._screen.note(f"{path} cannot be written: {error.strerror or error}")
        except MalformedConversation:
            self._screen.note(f"{path} is there and is no saved conversation; give another name")
        else:
            self._screen.note(f"saved to {path}")


def _read(path: Path) -> bytes:
    """The file, or its beginning if it is too long to be a conversation, which no decoder takes."""
    with path.open("rb") as file:
        return file.read(LARGEST_FILE_BYTES)


def _write(path: Path, content: bytes) -> None:
    """Write the whole file or nothing. A new file belongs to this user alone."""
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    beside = path.with_name(f".{path.name[:100]}.{os.getpid()}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
