"""Replies in the formats of real families of models, and what is to be read in them. All are of our own writing."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from neuron_lib.text.tag_splitter import Markers

__all__ = ("SAMPLES", "TOOLS", "Sample")


class Sample(NamedTuple):
    """A reply, and what is read in it. With `is_open` the prompt has opened the reasoning.

    `think` are the markers around reasoning if the format has none of its own.
    """

    format: str
    reply: str
    answer: str = ""
    reasoning: str = ""
    calls: Sequence[tuple[str, Mapping[str, Any]]] = ()
    is_open: bool = False
    think: Markers = Markers("<think>", "</think>")


def _function(name: str, required: Sequence[str] = (), **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": "Does it.", "parameters": parameters}}


_TEXT: Final = {"type": "string"}
_NUMBER: Final = {"type": "integer"}

TOOLS: Final = (
    _function("get_weather", ["city"], city=_TEXT, days=_NUMBER, metric={"type": "boolean"}),
    _function("search", ["query"], query=_TEXT, limit=_NUMBER),
    _function("write_file", ["path", "content"], path=_TEXT, content=_TEXT),
    _function("now"),
    _function("python", ["code"], code=_TEXT),
    _function(
        "order",
        ["items"],
        items={
            "type": "array",
            "items": {"type": "object", "properties": {"sku": _TEXT, "count": _NUMBER, "tags": {"type": "array"}}},
        },
        address={"type": "object", "properties": {"street": _TEXT, "zip": _TEXT}},
        price={"type": "number"},
        note={"anyOf": [_TEXT, {"type": "null"}]},
    ),
)

ROME: Final = ("get_weather", {"city": "Rome"})
ROME_3: Final = ("get_weather", {"city": "Rome", "days": 3, "metric": True})
OSLO: Final = ("get_weather", {"city": "Oslo"})
CODE: Final = 'if a < b:\n    print("x > y")\n\nreturn "</p>"'
FILE: Final = ("write_file", {"path": "a.py", "content": CODE})
ZIP: Final = ("search", {"query": "00123", "limit": 5})
ROME_JSON: Final = '{"city": "Rome"}'
ZIP_JSON: Final = '{"query": "00123", "limit": 5}'
NOW: Final[tuple[str, Mapping[str, Any]]] = ("now", {})


def _qwen(name: str, *, begin: str = "<tool_call>\n", end: str = "\n</tool_call>", **values: str) -> str:
    parameters = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    return f"{begin}<function={name}>\n{parameters}</function>{end}"


def _qwen_xml() -> Iterator[Sample]:
    f = "qwen_xml"
    yield Sample(f, _qwen("get_weather", city="Rome"), calls=[ROME])
    yield Sample(f, _qwen("get_weather", city="Rome", days="3", metric="true"), calls=[ROME_3])
    yield Sample(f, f"I look.\n\n{_qwen('search', query='00123', limit='5')}", answer="I look.", calls=[ZIP])
    yield Sample(f, _qwen("write_file", path="a.py", content=CODE), calls=[FILE])
    yield Sample(f, _qwen("now"), calls=[NOW])
    yield Sample(f, f"{_qwen('get_weather', city='Rome')}\n{_qwen('get_weather', city='Oslo')}", calls=[ROME, OSLO])
    yield Sample(f, _qwen("get_weather", begin="", city="Rome"), calls=[ROME])
    yield Sample(f, _qwen("get_weather", begin="", end="", city="Rome"), calls=[ROME])
    yield Sample(f, "Sure.\n" + _qwen("get_weather", begin="", city="Rome"), answer="Sure.", calls=[ROME])
    yield Sample(f, _qwen("get_weather", end="", city="Rome"), calls=[ROME])
    yield Sample(f, _qwen("get_weather", city="Rome").removesuffix("</function>\n</tool_call>"), calls=[ROME])
    yield Sample(
        f,
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nRome\n<parameter=days>\n3</parameter>\n"
        "<parameter=metric>\ntrue\n</parameter>\n</function>\n</tool_call>",
        calls=[ROME_3],
    )
    yield Sample(
        f,
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nRome\n</function>\n</tool_call>",
        calls=[ROME],
    )
    yield Sample(
        f, "<tool_call><function=get_weather><parameter=city>Rome</parameter></function></tool_call>", calls=[ROME]
    )
    yield Sample(
        f,
        "<tool_call>\n" + _qwen("get_weather", begin="", end="", city="Rome") + "\n" + _qwen("now", begin=""),
        calls=[ROME, NOW],
    )
    yield Sample(f, '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>', calls=[ROME])
    nested = {"items": [{"sku": "7", "count": 2}], "note": None, "price": 2.5}
    yield Sample(
        f,
        _qwen("order", items='[{"sku": "7", "count": 2}]', note="null", price="2.5"),
        calls=[("order", nested)],
    )
    yield Sample(f, _qwen("order", items="[{'sku': '7', 'count': 2}]"), calls=[("order", {"items": nested["items"]})])
    text = "one </parameter> two\n</function>\nthree <parameter=x> four"
    yield Sample(
        f,
        _qwen("write_file", path="a", content=text),
        calls=[("write_file", {"path": "a", "content": text})],
    )
    yield Sample(
        f,
        f"I must look.\n</think>\n\n{_qwen('get_weather', city='Rome')}",
        reasoning="I must look.\n",
        calls=[ROME],
        is_open=True,
    )
    yield Sample(
        f,
        f"I must look.\n{_qwen('get_weather', city='Rome')}",
        reasoning="I must look.\n",
        calls=[ROME],
        is_open=True,
    )
    yield Sample(
        f,
        f"<think>\nHm.\n</think>\n\nOf course.\n{_qwen('now')}\n",
        reasoning="\nHm.\n",
        answer="Of course.",
        calls=[NOW],
    )
    # What is no call.
    yield Sample(f, "Write <function=name> and </function>.", answer="Write <function=name> and </function>.")
    yield Sample(f, "Use <tool_call> for it.", answer="Use <tool_call> for it.")
    yield Sample(f, _qwen("unknown", begin="", end="", x="1"), answer=_qwen("unknown", begin="", end="", x="1"))
    broken = "<tool_call>\n<function=get_weather>\nRome\n</function>\n</tool_call>"
    yield Sample(f, broken, answer=broken)


def _seed_oss() -> Iterator[Sample]:
    f = "seed_oss"

    def call(name: str, end: str = "\n</seed:tool_call>", **values: str) -> str:
        parameters = "".join(f"<parameter={key}>{value}</parameter>\n" for key, value in values.items())
        return f"<seed:tool_call>\n<function={name}>\n{parameters}</function>{end}"

    yield Sample(f, call("get_weather", city="Rome"), calls=[ROME])
    yield Sample(
        f, f"Well.\n{call('get_weather', city='Rome', days='3', metric='True')}", answer="Well.", calls=[ROME_3]
    )
    yield Sample(f, f"{call('search', query='00123', limit='5')}\n{call('now')}", calls=[ZIP, NOW])
    yield Sample(f, call("write_file", path="a.py", content=CODE), calls=[FILE])
    yield Sample(f, call("get_weather", end="", city="Rome"), calls=[ROME])
    yield Sample(f, call("order", items="[{'sku': '7'}]"), calls=[("order", {"items": [{"sku": "7"}]})])
    thought = "Rome.\n<seed:cot_budget_reflect>I have used 20 tokens.</seed:cot_budget_reflect>\nSo."
    yield Sample(f, f"<seed:think>{thought}</seed:think>\nIt rains.", reasoning=thought, answer="It rains.")
    yield Sample(
        f,
        f"<seed:think>{thought}</seed:think>\n{call('get_weather', city='Rome')}",
        reasoning=thought,
        calls=[ROME],
    )


def _glm(name: str, *, line: str, end: str = "</tool_call>", **values: str) -> str:
    parts = (f"<arg_key>{key}</arg_key>{line}<arg_value>{value}</arg_value>{line}" for key, value in values.items())
    return f"<tool_call>{name}{line}{''.join(parts)}{end}"


def _key_value(f: str, line: str) -> Iterator[Sample]:
    yield Sample(f, _glm("get_weather", line=line, city="Rome"), calls=[ROME])
    yield Sample(f, _glm("get_weather", line=line, city="Rome", days="3", metric="true"), calls=[ROME_3])
    yield Sample(f, f"I look.\n{_glm('search', line=line, query='00123', limit='5')}", answer="I look.", calls=[ZIP])
    yield Sample(f, _glm("write_file", line=line, path="a.py", content=CODE), calls=[FILE])
    yield Sample(f, _glm("now", line=line), calls=[NOW])
    two = _glm("get_weather", line=line, city="Rome"), _glm("get_weather", line=line, city="Oslo")
    yield Sample(f, "\n".join(two), calls=[ROME, OSLO])
    yield Sample(f, "".join(two), calls=[ROME, OSLO])
    yield Sample(f, _glm("get_weather", line=line, end="", city="Rome"), calls=[ROME])
    yield Sample(f, _glm("get_weather", line=line, end="", city="Rome") + two[1], calls=[ROME, OSLO])
    yield Sample(
        f,
        _glm("order", line=line, items='[{"sku": "7", "count": 2}]', note="as <b>gift</b>"),
        calls=[("order", {"items": [{"sku": "7", "count": 2}], "note": "as <b>gift</b>"})],
    )
    yield Sample(f, f"Rome, then.</think>{two[0]}", reasoning="Rome, then.", calls=[ROME], is_open=True)
    yield Sample(f, f"Rome, then.{two[0]}", reasoning="Rome, then.", calls=[ROME], is_open=True)
    yield Sample(f, f"\n<think>Rome.</think>\nI look.\n{two[0]}", reasoning="Rome.", answer="I look.", calls=[ROME])
    yield Sample(f, f"</think>{two[0]}", calls=[ROME])
    yield Sample(f, "</think>Hello.", answer="Hello.")
    yield Sample(f, '<tool_call>{"name": "get_weather", "arguments": {"city": "Rome"}}</tool_call>', calls=[ROME])
    yield Sample(f, '<tool_call>get_weather\n{"city": "Rome"}\n</tool_call>', calls=[ROME])
    for reply in (
        "A <tool_call>something</tool_call> is text.",
        "<tool_call>get_weather<arg_key>city</arg_key>Rome",
        "<tool_call>two words<arg_key>city</arg_key><arg_value>Rome</arg_value></tool_call>",
    ):
        yield Sample(f, reply, answer=reply)


def _hunyuan3() -> Iterator[Sample]:
    f, h = "hunyuan3", ":opensource"

    def call(name: str, **values: str) -> str:
        parts = (
            f"<arg_key{h}>{key}</arg_key{h}>\n<arg_value{h}>{value}</arg_value{h}>\n" for key, value in values.items()
        )
        return f"<tool_call{h}>{name}<tool_sep{h}>\n{''.join(parts)}</tool_call{h}>\n"

    def section(*calls: str) -> str:
        return f"<tool_calls{h}>\n{''.join(calls)}</tool_calls{h}>"

    yield Sample(f, section(call("get_weather", city="Rome")), calls=[ROME])
    yield Sample(
        f, section(call("get_weather", city="Rome", days="3", metric="true"), call("now")), calls=[ROME_3, NOW]
    )
    yield Sample(f, f"I look.{section(call('search', query='00123', limit='5'))}", answer="I look.", calls=[ZIP])
    yield Sample(f, section(call("write_file", path="a.py", content=CODE)), calls=[FILE])
    yield Sample(f, f"<tool_calls{h}>\n{call('get_weather', city='Rome')}", calls=[ROME])
    yield Sample(f, call("get_weather", city="Rome"), calls=[ROME])
    yield Sample(f, section(call("get_weather", city="Rome")).replace(h, ""), calls=[ROME])
    thought = f"Rome.</think{h}>"
    yield Sample(f, f"{thought}It rains.", reasoning="Rome.", answer="It rains.", is_open=True)
    yield Sample(f, f"{thought}{section(call('now'))}", reasoning="Rome.", calls=[NOW], is_open=True)
    yield Sample(f, f"<think{h}>{thought}{section(call('now'))}", reasoning="Rome.", calls=[NOW])


def _deepseek_json(f: str, before: str, after: str) -> Iterator[Sample]:
    begin, end = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"

    def call(name: str, arguments: str) -> str:
        return f"<｜tool▁call▁begin｜>{before.replace('NAME', name)}{arguments}{after}<｜tool▁call▁end｜>"

    rome, oslo = call("get_weather", '{"city": "Rome"}'), call("get_weather", '{"city":"Oslo"}')
    yield Sample(f, f"{begin}{rome}{end}", calls=[ROME])
    yield Sample(f, f"I look.{begin}{rome}\n{oslo}{end}", answer="I look.", calls=[ROME, OSLO])
    yield Sample(f, f"{begin}{rome}{oslo}{end}", calls=[ROME, OSLO])
    yield Sample(f, f"{begin}{call('search', ZIP_JSON)}{end}", calls=[ZIP])
    yield Sample(f, f"{begin}{call('now', '{}')}{end}", calls=[NOW])
    yield Sample(f, f"{rome}{end}", calls=[ROME])
    yield Sample(f, f"{begin}{rome}", calls=[ROME])
    yield Sample(f, f"{begin}{rome.removesuffix('<｜tool▁call▁end｜>')}", calls=[ROME])
    yield Sample(f, f"{begin}{rome.removesuffix('<｜tool▁call▁end｜>')}{end}", calls=[ROME])
    yield Sample(f, f"{begin}{rome.removeprefix('<｜tool▁call▁begin｜>')}{end}", calls=[ROME])
    yield Sample(
        f, f"Rome it is.\n</think>\n\n{begin}{rome}{end}", reasoning="Rome it is.\n", calls=[ROME], is_open=True
    )
    yield Sample(f, f"Rome it is.{begin}{rome}{end}", reasoning="Rome it is.", calls=[ROME], is_open=True)
    yield Sample(f, "Rome.</think>It rains.", reasoning="Rome.", answer="It rains.", is_open=True)
    yield Sample(f, f"<think>Rome.</think>{begin}{rome}{end}", reasoning="Rome.", calls=[ROME])
    broken = f"{begin}{call('get_weather', '{city: Rome}')}{end}"
    yield Sample(f, broken, answer=broken)


def _dsml(f: str, section: str) -> Iterator[Sample]:
    d = "｜DSML｜"
    begin, end = f"<{d}{section}>\n", f"</{d}{section}>"

    def call(name: str, **values: tuple[str, str]) -> str:
        parts = (
            f'<{d}parameter name="{key}" string="{is_text}">{value}</{d}parameter>\n'
            for key, (is_text, value) in values.items()
        )
        return f'<{d}invoke name="{name}">\n{"".join(parts)}</{d}invoke>\n'

    rome = call("get_weather", city=("true", "Rome"))
    full = call("get_weather", city=("true", "Rome"), days=("false", "3"), metric=("false", "true"))
    yield Sample(f, f"{begin}{rome}{end}", calls=[ROME])
    yield Sample(f, f"I look.\n\n{begin}{full}{call('now')}{end}", answer="I look.", calls=[ROME_3, NOW])
    yield Sample(f, f"{begin}{call('search', query=('true', '00123'), limit=('false', '5'))}{end}", calls=[ZIP])
    yield Sample(f, f"{begin}{call('search', query=('false', '00123'), limit=('true', '5'))}{end}", calls=[ZIP])
    yield Sample(f, f"{begin}{call('write_file', path=('true', 'a.py'), content=('true', CODE))}{end}", calls=[FILE])
    items = '[{"sku": "7", "count": 2}]'
    yield Sample(
        f,
        f"{begin}{call('order', items=('false', items))}{end}",
        calls=[("order", {"items": [{"sku": "7", "count": 2}]})],
    )
    yield Sample(f, f"{begin}{rome}", calls=[ROME])
    yield Sample(f, rome, calls=[ROME])
    yield Sample(f, f'{begin}<{d}invoke name="now">\n\n</{d}invoke>\n{end}', calls=[NOW])
    wrapped = call("get_weather", arguments=("false", '{"city": "Rome"}'))
    yield Sample(f, f"{begin}{wrapped}{end}", calls=[ROME])
    yield Sample(f, f"Rome.</think>\n\n{begin}{rome}{end}", reasoning="Rome.", calls=[ROME], is_open=True)
    yield Sample(f, f"Rome.\n{begin}{rome}{end}", reasoning="Rome.\n", calls=[ROME], is_open=True)
    yield Sample(f, "Rome.</think>It rains.", reasoning="Rome.", answer="It rains.", is_open=True)
    yield Sample(f, "<think>Rome.</think>It rains.", reasoning="Rome.", answer="It rains.")
    broken = f"{begin}<{d}invoke>\n</{d}invoke>\n{end}"
    yield Sample(f, broken, answer=broken)


def _minimax_m2() -> Iterator[Sample]:
    f, begin, end = "minimax_m2", "<minimax:tool_call>\n", "</minimax:tool_call>"

    def call(name: str, **values: str) -> str:
        parts = (f'<parameter name="{key}">{value}</parameter>\n' for key, value in values.items())
        return f'<invoke name="{name}">\n{"".join(parts)}</invoke>\n'

    rome = call("get_weather", city="Rome")
    yield Sample(f, f"{begin}{rome}{end}", calls=[ROME])
    yield Sample(
        f,
        f"I look.\n{begin}{call('get_weather', city='Rome', days='3', metric='true')}{call('now')}{end}",
        answer="I look.",
        calls=[ROME_3, NOW],
    )
    yield Sample(f, f"{begin}{call('search', query='00123', limit='5')}{end}", calls=[ZIP])
    yield Sample(f, f"{begin}{call('write_file', path='a.py', content=CODE)}{end}", calls=[FILE])
    yield Sample(f, f"{begin}{rome}{end}\n{begin}{call('get_weather', city='Oslo')}{end}", calls=[ROME, OSLO])
    yield Sample(f, f"{begin}{rome}", calls=[ROME])
    yield Sample(f, rome, calls=[ROME])
    yield Sample(
        f, f"{begin}<invoke name='get_weather'>\n<parameter name=city>Rome</parameter>\n</invoke>\n{end}", calls=[ROME]
    )
    yield Sample(f, f"Rome.\n</think>\n\n{begin}{rome}{end}", reasoning="Rome.\n", calls=[ROME], is_open=True)
    yield Sample(f, "Rome.\n</think>\n\nIt rains.", reasoning="Rome.\n", answer="It rains.", is_open=True)
    yield Sample(f, f"Rome.\n{begin}{rome}{end}", reasoning="Rome.\n", calls=[ROME], is_open=True)
    prose = 'Write <invoke name="f"> first.'
    yield Sample(f, prose, answer=prose)


def _minimax_m3() -> Iterator[Sample]:
    f, m = "minimax_m3", "]<]minimax[>["
    begin, end = f"{m}<tool_call>\n", f"{m}</tool_call>"

    def tag(name: str, *inside: str) -> str:
        return f"{m}<{name}>{''.join(inside)}{m}</{name}>"

    def call(name: str, *inside: str) -> str:
        return f'{m}<invoke name="{name}">{"".join(inside)}{m}</invoke>\n'

    rome = call("get_weather", tag("city", "Rome"))
    yield Sample(f, f"{begin}{rome}{end}", calls=[ROME])
    full = call("get_weather", tag("city", "Rome"), tag("days", "3"), tag("metric", "true"))
    yield Sample(f, f"</mm:think>I look.{begin}{full}{call('now')}{end}", answer="I look.", calls=[ROME_3, NOW])
    yield Sample(f, f"{begin}{call('search', tag('query', '00123'), tag('limit', '5'))}{end}", calls=[ZIP])
    yield Sample(f, f"{begin}{call('write_file', tag('path', 'a.py'), tag('content', CODE))}{end}", calls=[FILE])
    item = tag("item", tag("sku", "007"), tag("count", "2"), tag("tags", tag("item", "a"), tag("item", "b")))
    address = tag("address", tag("street", "Via <b>"), tag("zip", "00100"))
    yield Sample(
        f,
        f"{begin}{call('order', tag('items', item, tag('item', tag('sku', 'x'))), address, tag('price', '2.5'))}{end}",
        calls=[
            (
                "order",
                {
                    "items": [{"sku": "007", "count": 2, "tags": ["a", "b"]}, {"sku": "x"}],
                    "address": {"street": "Via <b>", "zip": "00100"},
                    "price": 2.5,
                },
            )
        ],
    )
    yield Sample(
        f, f"{begin}{call('order', tag('items'), tag('address'))}{end}", calls=[("order", {"items": [], "address": {}})]
    )
    items = f"{m}<items>\n{m}<item>\n{m}<sku>7{m}</sku>\n{m}</item>\n{m}</items>\n"
    yield Sample(
        f, f'{begin}{m}<invoke name="order">\n{items}{m}</invoke>\n{end}', calls=[("order", {"items": [{"sku": "7"}]})]
    )
    yield Sample(f, f"{begin}{rome}{call('get_weather', tag('city', 'Oslo'))}{end}", calls=[ROME, OSLO])
    yield Sample(f, f"{begin}{rome}", calls=[ROME])
    yield Sample(f, rome, calls=[ROME])
    yield Sample(f, "<mm:think>Rome.</mm:think>It rains.", reasoning="Rome.", answer="It rains.")
    yield Sample(f, f"<mm:think>Rome.</mm:think>{begin}{rome}{end}", reasoning="Rome.", calls=[ROME])
    yield Sample(f, f"Rome.</mm:think>{begin}{rome}{end}", reasoning="Rome.", calls=[ROME], is_open=True)
    yield Sample(f, f"<mm:think>Rome.{begin}{rome}{end}", reasoning="Rome.", calls=[ROME])
    yield Sample(f, "</mm:think>It rains.", answer="It rains.")
    broken = f'{begin}{m}<invoke name="get_weather">{m}<city>Rome{m}</invoke>\n{end}'
    yield Sample(f, broken, answer=broken)


def _kimi_k2() -> Iterator[Sample]:
    f, begin, end = "kimi_k2", "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"

    def call(head: str, arguments: str) -> str:
        return f"<|tool_call_begin|>{head}<|tool_call_argument_begin|>{arguments}<|tool_call_end|>"

    rome = call("functions.get_weather:0", '{"city": "Rome"}')
    yield Sample(f, f"{begin}{rome}{end}", calls=[ROME])
    yield Sample(f, f"I look.{begin}{rome}{call('functions.now:1', '{}')}{end}", answer="I look.", calls=[ROME, NOW])
    yield Sample(f, f"{begin}{call('functions.search:0', ZIP_JSON)}{end}", calls=[ZIP])
    spaced = call("functions.get_weather:12\n", f" {ROME_JSON} ")
    yield Sample(f, f"{begin}\n{spaced}\n{end}", calls=[ROME])
    yield Sample(f, f"{begin}{call('get_weather:0', ROME_JSON)}{end}", calls=[ROME])
    yield Sample(f, f"{begin}{call('functions.get_weather', ROME_JSON)}{end}", calls=[ROME])
    yield Sample(f, f"{begin}{call('functions.now:0', '')}{end}", calls=[NOW])
    yield Sample(f, rome, calls=[ROME])
    yield Sample(f, f"{begin}{rome}", calls=[ROME])
    yield Sample(f, f"{begin}{rome.removesuffix('<|tool_call_end|>')}{end}", calls=[ROME])
    yield Sample(f, f"<think>Rome.</think>{begin}{rome}{end}", reasoning="Rome.", calls=[ROME])
    yield Sample(f, f"<think>Rome.{begin}{rome}{end}", reasoning="Rome.", calls=[ROME])
    yield Sample(f, "<think>Rome.</think>It rains.", reasoning="Rome.", answer="It rains.")
    unknown = f"{begin}{call('functions.other.0', '{}')}{end}"
    yield Sample(f, unknown, answer=unknown)
    broken = f"{begin}{call('functions.get_weather:0', ROME_JSON[:8])}{end}"
    yield Sample(f, broken, answer=broken)


def _kimi_k3() -> Iterator[Sample]:
    f, o, c, s = "kimi_k3", "<|open|>", "<|close|>", "<|sep|>"

    def argument(key: str, kind: str, value: str) -> str:
        return f'{o}argument key="{key}" type="{kind}"{s}{value}{c}argument{s}'

    def call(name: str, *inside: str, index: int = 1) -> str:
        return f'{o}call tool="{name}" index="{index}"{s}{"".join(inside)}{c}call{s}'

    def tools(*calls: str) -> str:
        return f"{o}tools{s}{''.join(calls)}{c}tools{s}"

    end = f"{c}message{s}<|end_of_msg|>"
    rome = call("get_weather", argument("city", "string", "Rome"))
    think, none = f"Rome.{c}think{s}", f"{o}response{s}{c}response{s}"
    rains = f"{o}response{s}It rains.{c}response{s}"
    yield Sample(f, f"{think}{none}{tools(rome)}{end}", reasoning="Rome.", calls=[ROME], is_open=True)
    yield Sample(f, f"{think}{rains}{end}", reasoning="Rome.", answer="It rains.", is_open=True)
    yield Sample(f, f"It rains.{c}response{s}{end}", answer="It rains.")
    yield Sample(f, f"{o}think{s}{think}{rains}{tools(rome)}", reasoning="Rome.", answer="It rains.", calls=[ROME])
    full = call(
        "get_weather",
        argument("city", "string", "Rome"),
        argument("days", "number", "3"),
        argument("metric", "boolean", "true"),
    )
    yield Sample(f, f"{c}response{s}{tools(full, call('now', index=2))}", calls=[ROME_3, NOW])
    zip_code = call("search", argument("query", "string", "00123"), argument("limit", "number", "5"))
    yield Sample(f, tools(zip_code), calls=[ZIP])
    yield Sample(
        f,
        tools(call("write_file", argument("path", "string", "a.py"), argument("content", "string", CODE))),
        calls=[FILE],
    )
    items = argument("items", "array", '[{"sku": "7"}]')
    yield Sample(f, tools(call("order", items)), calls=[("order", {"items": [{"sku": "7"}]})])
    yield Sample(f, tools(call("get_weather", f'{o}json type="object"{s}{ROME_JSON}{c}json{s}')), calls=[ROME])
    yield Sample(f, f"{o}tools{s}{rome}", calls=[ROME])
    yield Sample(f, f"Rome.{o}tools{s}{rome}{c}tools{s}", reasoning="Rome.", calls=[ROME], is_open=True)


def _gemma(f: str, begin: str, end: str, q: str) -> Iterator[Sample]:
    def call(name: str, inside: str = "") -> str:
        return f"{begin}call:{name}{{{inside}}}{end}"

    rome = call("get_weather", f"city:{q}Rome{q}")
    yield Sample(f, rome, calls=[ROME])
    yield Sample(f, call("get_weather", f"city:{q}Rome{q},days:3,metric:true"), calls=[ROME_3])
    yield Sample(f, f"I look. {call('search', f'query:{q}00123{q},limit:5')}", answer="I look.", calls=[ZIP])
    yield Sample(f, call("search", "query:00123,limit:5"), calls=[ZIP])
    yield Sample(f, call("write_file", f"content:{q}{CODE}{q},path:{q}a.py{q}"), calls=[FILE])
    yield Sample(f, f"{rome}{call('get_weather', f'city:{q}Oslo{q}')}", calls=[ROME, OSLO])
    yield Sample(f, call("now"), calls=[NOW])
    nested = {"items": [{"count": 2, "sku": "a,b}", "tags": ["x", "y"]}], "price": 2.5, "note": None}
    yield Sample(
        f,
        call("order", f"items:[{{count:2,sku:{q}a,b}}{q},tags:[{q}x{q},{q}y{q}]}}],price:2.5,note:null"),
        calls=[("order", nested)],
    )
    yield Sample(f, call("get_weather", f'{q}city{q}: {q}Rome{q}, "days": 3, metric: true'), calls=[ROME_3])
    yield Sample(f, call("get_weather", 'city:"Rome"'), calls=[ROME])
    yield Sample(f, rome.removesuffix(end), calls=[ROME])
    yield Sample(f, f"{begin}get_weather{{city:{q}Rome{q}}}{end}", calls=[ROME])
    yield Sample(f, rome.removeprefix(begin), calls=[ROME])
    prose = "call:me{maybe} later"
    yield Sample(f, prose, answer=prose)
    broken = call("get_weather", "Rome")
    yield Sample(f, broken, answer=broken)


def _gemma4() -> Iterator[Sample]:
    f, q = "gemma4", '<|"|>'
    yield from _gemma(f, "<|tool_call>", "<tool_call|>", q)
    rome = f"<|tool_call>call:get_weather{{city:{q}Rome{q}}}<tool_call|>"
    thought = "<|channel>thought\nRome.<channel|>"
    yield Sample(f, f"{thought}It rains.", reasoning="Rome.", answer="It rains.")
    yield Sample(f, f"{thought}{rome}", reasoning="Rome.", calls=[ROME])
    yield Sample(f, f"{thought}{rome}<|tool_response>", reasoning="Rome.", calls=[ROME])
    yield Sample(f, f"{thought.removesuffix('<channel|>')}{rome}", reasoning="Rome.", calls=[ROME])
    yield Sample(f, "<|channel>thought\n<channel|>It rains.", answer="It rains.")


def _minicpm() -> Iterator[Sample]:
    f = "minicpm"

    def call(name: str, **values: str) -> str:
        parts = (f'<param name="{key}">{value}</param>' for key, value in values.items())
        return f'<function name="{name}">{"".join(parts)}</function>'

    rome = call("get_weather", city="Rome")
    yield Sample(f, rome, calls=[ROME])
    yield Sample(f, call("get_weather", city="Rome", days="3", metric="true"), calls=[ROME_3])
    yield Sample(f, f"I look.\n{call('search', query='00123', limit='5')}", answer="I look.", calls=[ZIP])
    yield Sample(f, call("write_file", path="a.py", content=f"<![CDATA[{CODE}]]>"), calls=[FILE])
    yield Sample(
        f,
        call("write_file", path="a.py", content="a &lt; b &amp;&amp; c"),
        calls=[("write_file", {"path": "a.py", "content": "a < b && c"})],
    )
    yield Sample(f, f"{rome}\n{call('now')}", calls=[ROME, NOW])
    yield Sample(f, f"<tool_call>\n{rome}\n</tool_call>", calls=[ROME])
    yield Sample(f, '<function name="get_weather">\n  <param name="city">Rome</param>\n</function>', calls=[ROME])
    yield Sample(f, '<functionname="get_weather"><paramname="city">Rome</param></function>', calls=[ROME])
    yield Sample(f, f"Rome.\n</think>\n\n{rome}", reasoning="Rome.\n", calls=[ROME], is_open=True)
    yield Sample(f, "<think>\nRome.\n</think>\n\nIt rains.", reasoning="\nRome.\n", answer="It rains.")
    prose = 'A <function name="f"> is XML.'
    yield Sample(f, prose, answer=prose)


def _harmony() -> Iterator[Sample]:
    f, start, final = "harmony", "<|start|>assistant", "<|channel|>final<|message|>"
    thought = "<|channel|>analysis<|message|>Rome.<|end|>"
    rome = '{"city": "Rome"}'
    call = f"<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{rome}"
    yield Sample(f, f"{thought}{start}{final}It rains.", reasoning="Rome.", answer="It rains.")
    yield Sample(f, f"{thought}{start}{final}It rains.<|return|>", reasoning="Rome.", answer="It rains.")
    yield Sample(f, f"{thought}{start}{call}", reasoning="Rome.", calls=[ROME])
    yield Sample(f, f"{thought}{start}{call}<|call|>", reasoning="Rome.", calls=[ROME])
    yield Sample(f, f" to=functions.get_weather<|channel|>commentary json<|message|>{rome}", calls=[ROME])
    yield Sample(
        f,
        f"{thought}{start} to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>{rome}<|call|>",
        reasoning="Rome.",
        calls=[ROME],
    )
    yield Sample(f, f"<|channel|>analysis to=functions.get_weather code<|message|>{rome}", calls=[ROME])
    yield Sample(f, f"<|channel|>commentary<|message|>I look.<|end|>{start}{call}", answer="I look.", calls=[ROME])
    yield Sample(f, f"{thought}{call}<|call|>{start}{call}", reasoning="Rome.", calls=[ROME, ROME])
    yield Sample(f, f"{thought.removesuffix('<|end|>')}{start}{final}It rains.", reasoning="Rome.", answer="It rains.")
    yield Sample(f, f"{thought}{final}It rains.", reasoning="Rome.", answer="It rains.")
    yield Sample(f, f"{thought}{start}{thought}{start}{final}Yes.", reasoning="Rome.\nRome.", answer="Yes.")
    yield Sample(f, "It rains.", answer="It rains.")
    yield Sample(f, f"Rome.<|end|>{start}{final}It rains.", reasoning="Rome.", answer="It rains.", is_open=True)
    yield Sample(f, f"{final}A <b>bold</b> < word.", answer="A <b>bold</b> < word.")
    yield Sample(f, "<|channel|>commentary to=functions.now<|message|>{}<|call|>", calls=[NOW])
    yield Sample(f, "<|channel|>" + "no end " * 100, answer="<|channel|>" + "no end " * 100)
    broken = "<|channel|>commentary to=functions.now<|message|>{oops<|call|>"
    yield Sample(f, broken, answer=broken)


def _odd() -> Iterator[Sample]:
    """What models write at times, and what only looks like a call."""
    yield Sample("qwen_xml", '<tool_call><function=get_weather>{"city": "Rome"}</function></tool_call>', calls=[ROME])
    yield Sample("qwen_xml", '<tool_call>{"name": "get_weather", "arguments": {"city": "Rome"}}', calls=[ROME])
    tagged = '{"name": "search", "arguments": {"query": "</tool_call>"}}'
    yield Sample("qwen_xml", f"<tool_call>{tagged}</tool_call>", calls=[("search", {"query": "</tool_call>"})])
    yield Sample("minicpm", '<function name="now"/>', calls=[NOW])
    begin, end, separator = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
    g, c = "<|tool_call>call:", "<tool_call|>"
    yield Sample("gemma4", f'{g}search{{query:"a \\"b\\" c"}}{c}', calls=[("search", {"query": 'a "b" c'})])
    yield Sample("gemma4", f"{g}order{{items:[]}}{c}", calls=[("order", {"items": []})])
    yield Sample("gemma4", f'{g}get_weather(city="Rome"){c}', calls=[ROME])
    m = "]<]minimax[>["
    section, opened = "<|tool_calls_section_begin|>", "<|open|>tools<|sep|><|open|>call"
    for name, reply in (
        ("qwen_xml", "<tool_call><function=get_weather>{oops}</function></tool_call>"),
        ("qwen_xml", "<tool_call>\n<function=search>\n<parameter=query>\nno end"),
        ("qwen_xml", "<tool_call>{}</tool_call>"),
        ("qwen_xml", '<tool_call>{"name": "now", "arguments": {"a": "\\ud800"}}</tool_call>'),
        ("glm47", '<tool_call>now{"a": "\\ud800"}</tool_call>'),
        ("glm47", "<tool_call>now[1]</tool_call>"),
        ("glm47", "<tool_call>now{1}</tool_call>"),
        ("deepseek_v31", f"{begin}two words{separator}{{}}{end}"),
        ("deepseek_v31", f"{begin}{'long' * 80}{separator}{{}}{end}"),
        ("gemma4", f"{g}{{}}{c}"),
        ("gemma4", f"{g}search{{:1}}{c}"),
        ("gemma4", f"{g}search{{query:}}{c}"),
        ("gemma4", f"{g}search{{query:[1}}]{c}"),
        ("gemma4", f"{g}search{{query:{'[' * 70}{']' * 70}}}{c}"),
        ("kimi_k2", f"{section}<|tool_call_begin|>two words:0<|tool_call_argument_begin|>{{}}<|tool_call_end|>"),
        ("kimi_k3", f'{opened} index="1"<|sep|><|close|>call<|sep|>'),
        ("kimi_k3", f'{opened} tool="now" index="1"<|sep|>text<|close|>call<|sep|>'),
        (
            "kimi_k3",
            f'{opened} tool="now"<|sep|><|open|>json<|sep|>[1]<|close|>json<|sep|><|close|>call<|sep|>',
        ),
        ("minimax_m3", f"{m}<invoke>{m}</invoke>"),
        ("minimax_m3", f'{m}<invoke name="order">{m}<items>text{m}<item>1{m}</item>{m}</items>{m}</invoke>'),
    ):
        yield Sample(name, reply, answer=reply)
    days = '<|open|>argument key="days" type="string"<|sep|>3<|close|>argument<|sep|>'
    typed = f'{opened} tool="get_weather"<|sep|>{days}'
    yield Sample("kimi_k3", f"{typed}<|close|>call<|sep|><|close|>tools<|sep|>", calls=[("get_weather", {"days": 3})])
    yield Sample("kimi_k3", f"{typed}<|close|>tools<|sep|>", calls=[("get_weather", {"days": 3})])
    twice = f"{m}<tag>a{m}</tag>{m}<tag>b{m}</tag>"
    yield Sample("minimax_m3", f'{m}<invoke name="other">{twice}{m}</invoke>', calls=[("other", {"tag": ["a", "b"]})])
    yield Sample("minimax_m3", f'{m}<invoke name="now"/>', calls=[NOW])


SAMPLES: Final = (
    *_qwen_xml(),
    *_seed_oss(),
    *_key_value("glm45", "\n"),
    *_key_value("glm47", ""),
    *_hunyuan3(),
    *_deepseek_json("deepseek_r1", "function<｜tool▁sep｜>NAME\n```json\n", "\n```"),
    *_deepseek_json("deepseek_v31", "NAME<｜tool▁sep｜>", ""),
    *_dsml("deepseek_v32", "function_calls"),
    *_dsml("deepseek_v4", "tool_calls"),
    *_minimax_m2(),
    *_minimax_m3(),
    *_kimi_k2(),
    *_kimi_k3(),
    *_gemma4(),
    *_gemma("function_gemma", "<start_function_call>", "<end_function_call>", "<escape>"),
    *_minicpm(),
    *_harmony(),
    *_odd(),
)
