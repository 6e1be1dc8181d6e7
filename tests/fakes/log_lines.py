"""What a record says, apart from the fields behind its message."""

import logging

from neuron_lib.logs import Message

__all__ = ("said",)


def said(record: logging.LogRecord) -> str:
    """The message without its fields."""
    return record.msg.text if isinstance(record.msg, Message) else record.getMessage()
