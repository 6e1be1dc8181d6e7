"""Llama 3 and 4: JSON anywhere, or a list of Python calls at the beginning of the answer, also behind a marker."""

import re
from dataclasses import replace
from typing import Final

from neuron_lib.text.formats.bare import BARE, FENCED
from neuron_lib.text.formats.code_tags import FUNCTION_TAG, PYTHON_TAG
from neuron_lib.text.formats.marked import MarkedFormat
from neuron_lib.text.formats.rules import json_object_rules, python_rules
from neuron_lib.text.formats.tool_format import Trigger

__all__ = ("LLAMA_JSON", "LLAMA_PYTHONIC")

_LIST_OF_CALLS: Final = re.compile(r"\[\w+\(\w+\s*=")

LLAMA_JSON: Final = MarkedFormat(
    name="llama_json",
    # These models often write a sentence in front of the object.
    blocks=(
        PYTHON_TAG,
        FUNCTION_TAG,
        BARE,
        replace(BARE, opens=("{",), is_first=False),
        replace(FENCED, is_first=False),
    ),
    separators=";,",
    recognises=lambda template: "ipython" in template and '"parameters"' in template,
    own_triggers=(Trigger('{"name": "', is_first=True),),
    write_rules=json_object_rules(arguments_key="parameters", between="; "),
)
"""`{"name": …, "parameters": {…}}` with the name of a tool of the request."""

LLAMA_PYTHONIC: Final = replace(
    LLAMA_JSON,
    name="llama_pythonic",
    recognises=lambda template: _LIST_OF_CALLS.search(template) is not None,
    own_triggers=(),  # many answers begin with a bracket
    write_rules=python_rules(begin="[", end="]"),
)
"""`[f(a=1), g()]`."""
