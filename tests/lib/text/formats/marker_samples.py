"""Replies of the families that write JSON or Python between markers. All are of our own writing."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from neuron_lib.text.tag_splitter import Markers
from tests.lib.text.formats.family_samples import CODE, FILE, NOW, OSLO, ROME, ROME_3, ZIP, Sample

__all__ = ("MARKER_SAMPLES",)

Call: TypeAlias = tuple[str, Mapping[str, Any]]
Write: TypeAlias = Callable[[Sequence[Call]], str]

ORDER: Final[Call] = (
    "order",
    {"items": [{"sku": "a}]", "count": 2, "tags": []}], "address": {"zip": "00123"}, "price": -1.5e3, "note": None},
)
ODD: Final[Call] = ("search", {"query": "said \"hi\"\\ \u2028 {[( Zürich 😀 'n' </tool_call>"})


def obj(call: Call, *, name: str = "name", arguments: str = "arguments", **more: Any) -> str:
    return json.dumps({name: call[0], arguments: call[1], **more}, ensure_ascii=False)


def listed(calls: Sequence[Call], **keys: Any) -> str:
    return f"[{', '.join(obj(call, **keys) for call in calls)}]"


def python(calls: Sequence[Call], *, between: str = ", ") -> str:
    return between.join(
        f"{name}({', '.join(f'{key}={value!r}' for key, value in args.items())})" for name, args in calls
    )


def family(
    f: str,
    write: Write,
    *,
    think: tuple[str, str] | None = ("<think>", "</think>"),
    is_first: bool = False,
    is_parallel: bool = True,
    calls_in_reasoning: bool = True,
) -> Iterator[Sample]:
    """What every family can write. With `is_first` no text stands before calls."""
    for call in (ROME, ROME_3, FILE, ZIP, NOW, ORDER, ODD):
        yield Sample(f, write([call]), calls=[call])
    yield Sample(f, f"\n{write([ROME])}\n", calls=[ROME])
    yield Sample(f, "Rome < Oslo [1] {2}.\n", answer="Rome < Oslo [1] {2}.\n")
    if is_parallel:
        yield Sample(f, write([ROME, OSLO]), calls=[ROME, OSLO])
        yield Sample(f, write([ROME, NOW, FILE]), calls=[ROME, NOW, FILE])
    if not is_first:
        yield Sample(f, f"I look.\n\n{write([ROME])}", answer="I look.", calls=[ROME])
    if think is not None:
        begin, end = think
        hm: dict[str, Any] = {"reasoning": "Hm, Rome.", "think": Markers(begin, end)}
        yield Sample(f, f"{begin}Hm, Rome.{end}\n\n{write([ROME])}", calls=[ROME], **hm)
        yield Sample(f, f"Hm, Rome.{end}\n\nSunny.", answer="Sunny.", is_open=True, **hm)
        yield Sample(f, f"{begin}Hm, Rome.{end}{write([ROME])}", calls=[ROME], is_open=True, **hm)
        yield Sample(f, f"Hm, Rome.{end}\n\n{write([ORDER])}", calls=[ORDER], is_open=True, **hm)
        if not calls_in_reasoning:
            thought = f"Hm, Rome.{write([ROME])}"
            reply = f"{begin}{thought}{end}{write([OSLO])}"
            yield Sample(f, reply, calls=[OSLO], reasoning=thought, think=hm["think"])
        elif not is_first:
            yield Sample(f, f"{begin}Hm, Rome.{write([ROME])}", calls=[ROME], **hm)


def _shown(f: str, *replies: str) -> Iterator[Sample]:
    """Replies that are no calls, and so are shown as they are."""
    return (Sample(f, reply, answer=reply) for reply in replies)


def _hermes() -> Iterator[Sample]:
    f = "hermes"
    yield from family(f, lambda calls: "\n".join(f"<tool_call>\n{obj(call)}\n</tool_call>" for call in calls))
    begin, end = "<tool_call>", "</tool_call>"
    yield Sample(f, f"{begin}{obj(ROME)}", calls=[ROME])
    yield Sample(f, f"{begin}\n{obj(ROME)}\n{obj(OSLO)}\n{end}", calls=[ROME, OSLO])
    yield Sample(f, f"{begin}{listed([ROME, OSLO])}{end}", calls=[ROME, OSLO])
    yield Sample(f, f"{begin}\n```json\n{obj(ROME)}\n```\n{end}", calls=[ROME])
    yield Sample(
        f, f"{begin}{json.dumps({'function': dict(zip(('name', 'arguments'), ROME, strict=True))})}{end}", calls=[ROME]
    )
    yield Sample(
        f,
        f"{begin}{{'name': 'get_weather', 'arguments': {{'city': 'Rome', 'metric': True}}}}{end}",
        calls=[("get_weather", {"city": "Rome", "metric": True})],
    )
    yield Sample(f, f"{begin}{obj(ROME, arguments='parameters')}{end}", calls=[ROME])
    yield Sample(f, f'{begin}{{"arguments": {{"city": "Rome"}}, "name": "get_weather"}}{end}', calls=[ROME])
    yield Sample(f, f'{begin}{{"name": "get_weather", "arguments": "{{\\"city\\": \\"Rome\\"}}"}}{end}', calls=[ROME])
    yield Sample(f, f"<tools>\n{obj(ROME)}\n</tools>", calls=[ROME])
    yield Sample(f, f"<function_call>{obj(ROME)}</function_call>", calls=[ROME])
    yield Sample(f, '<function=get_weather>{"city": "Rome"}</function>', calls=[ROME])
    yield Sample(f, obj(ROME), calls=[ROME])
    yield Sample(f, f"```json\n{obj(ROME)}\n```", calls=[ROME])
    yield Sample(f, f"```\n{listed([ROME, OSLO])}\n```\nDone.", answer="Done.", calls=[ROME, OSLO])
    yield from _shown(
        f,
        f"{begin}no{end}",
        f'{begin}{{"name": "get_weather", "arguments": {{"city": {end} so',
        '{"name": "Rome", "population": 3}',
        '{"name": "unknown", "arguments": {"city": "Rome"}}',
        '{"city": "Rome"}',
        '```json\n{"name": "Rome"}\n```',
        "[1, 2, 3]",
        "<tools>no</tools>",
        f"Write {{'name': 'get_weather'}} for {obj(ROME)}",
        "```python\nget_weather(city='Rome')\n```",
    )


def _generic() -> Iterator[Sample]:
    f = "generic"
    yield from family(f, lambda calls: "\n".join(f"<tool_call>\n{obj(call)}\n</tool_call>" for call in calls))
    yield Sample(f, f'{{"tool_calls": {listed([ROME])}}}', calls=[ROME])
    yield Sample(f, f'{{"tool_call": {obj(ROME)}}}', calls=[ROME])
    yield from _shown(f, '{"tool_call": 1}', '{"response": "Sunny."}')


def _json() -> Iterator[Sample]:
    yield from family("json", lambda calls: "\n".join(map(obj, calls)), is_first=True)
    yield from family("json_list", listed, is_first=True)
    yield Sample("json_list", f"<tool_call>{listed([ROME])}</tool_call>", calls=[ROME])
    fenced = f"I look.\n```json\n{listed([ROME])}\n```"
    yield Sample("json_list", fenced, answer="I look.", calls=[ROME])
    yield Sample("json_list", f"[TOOL_CALLS]{listed([ROME])}", calls=[ROME])
    yield from _shown("json", fenced)
    yield Sample("json", f"{obj(ROME)} is what I would write.", answer="is what I would write.", calls=[ROME])


def _llama() -> Iterator[Sample]:
    f, keys = "llama_json", {"arguments": "parameters"}
    yield from family(f, lambda calls: "; ".join(obj(call, **keys) for call in calls), is_first=True, think=None)
    inside = f"Here it is: {obj(ROME, **keys)} Shall I go on?"
    yield Sample(f, inside, answer="Here it is:Shall I go on?", calls=[ROME])
    yield Sample(f, f"I look.\n```json\n{obj(ROME, **keys)}\n```", answer="I look.", calls=[ROME])
    yield Sample(f, f"{obj(ROME, **keys)}\n{obj(OSLO, **keys)}", calls=[ROME, OSLO])
    yield Sample(f, obj(ROME, type="function", **keys), calls=[ROME])
    yield Sample(f, '{"type": "function", "name": "get_weather", "parameters": {"city": "Rome"}}', calls=[ROME])
    yield Sample(f, f'{{"type": "function", "function": {obj(ROME, **keys)}}}', calls=[ROME])
    yield Sample(f, '{"function": "get_weather", "parameters": {"city": "Rome"}}', calls=[ROME])
    yield Sample(f, f"<|python_tag|>{obj(ROME, **keys)}", calls=[ROME])
    yield Sample(f, f"<|python_tag|>{obj(ROME, **keys)}; {obj(OSLO, **keys)}<|eom_id|>", calls=[ROME, OSLO])
    yield Sample(f, '<|python_tag|>get_weather.call(city="Rome")', calls=[ROME])
    yield Sample(f, f"I look.<|python_tag|>{obj(ROME)}", answer="I look.", calls=[ROME])
    yield Sample(f, '<function=get_weather>{"city": "Rome"}</function>', calls=[ROME])
    yield Sample(f, '[get_weather(city="Rome"), now()]', calls=[ROME, NOW])
    yield Sample(f, f"```json\n{obj(ROME, **keys)}\n```", calls=[ROME])
    yield from _shown(
        f,
        '<|python_tag|>{"city": "Rome"',
        '{"name": "Ann", "parameters": {"city": "Rome"}}',
        "[Rome](http://a.b) and [get_weather] are links",
        "[get_weather(city)]",
        "; so",
        'A set is {1, 2}, an object {"name": "Ann"} or {"a": {"name": "get_weather"}}; {',
        '```json\n{"name": "Ann"}\n```',
    )
    f = "llama_pythonic"
    yield from family(f, lambda calls: f"[{python(calls)}]", is_first=True, think=None)
    yield Sample(f, f"<|python_start|>[{python([ROME, OSLO])}]<|python_end|>", calls=[ROME, OSLO])
    yield Sample(f, "[get_weather(city='Rome', days=3, metric=true)]", calls=[ROME_3])
    yield Sample(f, obj(ROME, **keys), calls=[ROME])
    yield from _shown(f, "[get_weather('Rome')]", "[now(), and(so=1)]", "[]", "[now()", "[now(a=1 b=2)]")


def _lfm2() -> Iterator[Sample]:
    f, begin, end = "lfm2", "<|tool_call_start|>", "<|tool_call_end|>"
    yield from family(f, lambda calls: f"{begin}[{python(calls)}]{end}")
    yield Sample(f, f"{begin}{listed([ROME, OSLO])}{end}", calls=[ROME, OSLO])
    yield Sample(f, f"{begin}[{python([ROME])}]", calls=[ROME])
    yield Sample(f, f"{begin}[{python([ROME])}]{end}It is sunny.", answer="It is sunny.", calls=[ROME])
    yield Sample(f, f"{begin}[{python([ROME])}]{end}{begin}[{python([OSLO])}]{end}", calls=[ROME, OSLO])
    yield Sample(f, f"[{python([ROME])}]", calls=[ROME])
    yield Sample(f, f'{begin}[get_weather(city="Rome", days=3, metric=True)]{end}', calls=[ROME_3])
    yield Sample(f, f"{begin}[get_weather(\n    city='Rome',\n)]{end}", calls=[ROME])
    yield from _shown(f, f"{begin}[get_weather(city){end}", f"{begin}[]{end}")


def _olmo3() -> Iterator[Sample]:
    f, begin, end = "olmo3", "<function_calls>", "</function_calls>"
    yield from family(f, lambda calls: f"{begin}\n{python(calls, between=chr(10))}\n{end}")
    yield Sample(f, f"{begin}{python([ROME])}{end}", calls=[ROME])
    yield Sample(
        f,
        f'{begin}order(items=[], address={{"zip": null}}, note="a\\nb"){end}',
        calls=[("order", {"items": [], "address": {"zip": None}, "note": "a\nb"})],
    )
    yield from _shown(f, f"{begin}\nnow(\n{end}", f"{begin}now() {{}}{end}")


def _mistral() -> Iterator[Sample]:
    mark, think = "[TOOL_CALLS]", ("[THINK]", "[/THINK]")
    args: Write = lambda calls: "".join(f"{mark}{name}[ARGS]{json.dumps(a)}" for name, a in calls)  # noqa: E731 - a writer among others
    for f in ("mistral", "mistral_args", "mistral_ids"):
        yield Sample(f, f"{mark}{listed([ROME, OSLO], id='abcdefghi')}", calls=[ROME, OSLO])
        yield Sample(f, args([ROME, OSLO]), calls=[ROME, OSLO])
        yield Sample(f, f'{mark}get_weather[CALL_ID]123456789[ARGS]{{"city": "Rome"}}', calls=[ROME])
        yield Sample(f, f'{mark}get_weather{{"city": "Rome"}}{mark}now{{}}', calls=[ROME, NOW])
        yield Sample(f, f"{mark} {listed([ROME])}\n", calls=[ROME])
        yield Sample(f, listed([ROME]), calls=[ROME])
        yield from _shown(
            f, f"{mark} is a marker.", f"{mark}get_weather is a tool [1]", f"{mark}[1, 2]", f"{mark}[ARGS]{{}}", mark
        )
    yield from family("mistral", lambda calls: f"{mark}{listed(calls)}", think=think)
    yield from family("mistral_args", args, think=think)
    ids: Write = lambda calls: "".join(  # noqa: E731 - a writer among others
        f"{mark}{name}[CALL_ID]{i:09}[ARGS]{json.dumps(a)}" for i, (name, a) in enumerate(calls)
    )
    yield from family("mistral_ids", ids, think=think)


def _value_families() -> Iterator[Sample]:
    yield from family("granite3", lambda calls: f"<|tool_call|>{listed(calls)}")
    yield from family("granite3", lambda calls: f"<tool_call>{listed(calls)}</tool_call>")
    reply = "<think>Hm.</think>\n<response>Sunny.</response>"
    yield Sample("granite3", reply, reasoning="Hm.", answer="Sunny.")
    yield from _shown("granite3", "<response>xml</response>", "<|tool_call|> so")
    yield from family("phi4_mini", lambda calls: f"<|tool_call|>{listed(calls)}<|/tool_call|>", think=None)
    yield from family("phi4_mini", lambda calls: f"functools{listed(calls)}", think=None)
    yield from family("firefunction", lambda calls: f" functools{listed(calls)}", think=None)
    yield from _shown("firefunction", "import functools\nfunctools.wraps(f)", "functools {}")
    yield from family("gigachat3", lambda calls: "".join(f"<|function_call|>{obj(call)}" for call in calls))
    yield Sample("gigachat3", f"function call<|role_sep|>\n{obj(ROME)}<|message_sep|>\n\n", calls=[ROME])
    yield Sample("gigachat3", "Sunny.<|message_sep|>", answer="Sunny.")
    keys = {"name": "tool_name", "arguments": "parameters"}
    yield from family("command_r_plus", lambda calls: f"Action:\n```json\n{listed(calls, **keys)}\n```", think=None)
    yield Sample("command_r_plus", f"Action:\n```json\n[\n    {obj(ROME, **keys)}\n]\n```", calls=[ROME])
    yield Sample(
        "command_r_plus",
        f"Plan: look.\nAction: ```json\n{listed([ROME], **keys)}```",
        answer="Plan: look.",
        calls=[ROME],
    )
    yield from _shown(
        "command_r_plus",
        "Action: go.",
        'Action:\n```json\n[{"tool_name": "directly-answer", "parameters": {}}]\n```',
    )


def _json_families() -> Iterator[Sample]:
    for f in ("jamba", "hunyuan"):
        is_jamba = f == "jamba"
        yield from family(f, lambda calls: f"<tool_calls>{listed(calls)}</tool_calls>", calls_in_reasoning=is_jamba)
        yield from _shown(f, "<tool_calls>no</tool_calls>", "<tool_calls>[{")
    yield Sample("hunyuan", "<think>\nHm.\n</think>\n<answer>\nSunny.</answer>", reasoning="\nHm.\n", answer="Sunny.")
    yield from family(
        "minimax_m1",
        lambda calls: f"<tool_calls>\n{''.join(obj(call) + chr(10) for call in calls)}</tool_calls>",
        calls_in_reasoning=False,
    )
    steps = ("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]")
    yield from family("apriel", lambda calls: f"<tool_calls>{listed(calls)}</tool_calls>", think=steps)
    yield Sample(
        "apriel", f"Hm.\n{steps[1]}\nSunny.[END FINAL RESPONSE]", reasoning="Hm.\n", answer="Sunny.", is_open=True
    )
    yield from family("nemotron_v2", lambda calls: f"<TOOLCALL>{listed(calls)}</TOOLCALL>")
    text = json.dumps([{"name": "get_weather", "arguments": '{"city": "Rome"}'}])
    yield Sample("nemotron_v2", f"<TOOLCALL>{text}</TOOLCALL>", calls=[ROME])
    begin, end = "<|action_start|>", "<|action_end|>"
    yield from family(
        "internlm2", lambda calls: "".join(f"{begin}<|plugin|>\n{obj(c, arguments='parameters')}{end}" for c in calls)
    )
    yield Sample("internlm2", f"{begin} <|plugin|>{obj(ROME)}{end}\n", calls=[ROME])
    think = ("<|START_THINKING|>", "<|END_THINKING|>")

    def actions(calls: Sequence[Call]) -> str:
        listed = ",\n    ".join(
            json.dumps({"tool_call_id": str(i), "tool_name": name, "parameters": arguments})
            for i, (name, arguments) in enumerate(calls)
        )
        return f"<|START_ACTION|>[\n    {listed}\n]<|END_ACTION|>"

    f = "command_r7b"
    yield from family(f, actions, think=think)
    reply = f"{think[0]}Hm.{think[1]}<|START_RESPONSE|>Sunny.<|END_RESPONSE|>"
    yield Sample(f, reply, reasoning="Hm.", answer="Sunny.")
    yield Sample(
        f, reply.replace("RESPONSE", "TEXT").removeprefix(think[0]), reasoning="Hm.", answer="Sunny.", is_open=True
    )
    yield Sample(f, "Hm.<|START_RESPONSE|>Sunny.<|END_RESPONSE|>", reasoning="Hm.", answer="Sunny.", is_open=True)

    def keyed(calls: Sequence[Call]) -> str:
        return f"<|tools_prefix|>[{', '.join(json.dumps({name: args}) for name, args in calls)}]<|tools_suffix|>"

    yield from family("apertus", keyed, think=("<|inner_prefix|>", "<|inner_suffix|>"))
    yield from _shown("apertus", '<|tools_prefix|>[{"a": 1, "b": 2}]<|tools_suffix|>')


def _functionary() -> Iterator[Sample]:
    f = "functionary_3_1"
    tags: Write = lambda calls: "\n".join(f"<function={name}>{json.dumps(a)}</function>" for name, a in calls)  # noqa: E731 - a writer among others
    yield from family(f, tags, think=None)
    yield Sample(f, '<function=get_weather>\n{"city": "Rome"}', calls=[ROME])
    yield Sample(f, '<function name="get_weather">\n{"city": "Rome"}\n</function>', calls=[ROME])
    yield Sample(f, "<|python_tag|>print(1)", calls=[("python", {"code": "print(1)"})])
    yield from _shown(f, "<function=get_weather>Rome</function>", "<function=", "<function=a b>{}</function>")
    f = "functionary_3_2"
    yield Sample(f, 'get_weather\n{"city": "Rome"}', calls=[ROME])
    yield Sample(f, 'get_weather\n{"city": "Rome"}>>>now\n{}', calls=[ROME, NOW])
    yield Sample(f, 'all\nI look.>>>get_weather\n{"city": "Rome"}', answer="I look.", calls=[ROME])
    yield Sample(f, f"write_file\n{json.dumps(FILE[1])}\n", calls=[FILE])
    yield Sample(f, "all\nSunny: 3 >> 2.", answer="Sunny: 3 >> 2.")
    code = "# rain\nprint(3 >> 1)"
    yield Sample(f, f"python\n{code}\n>>>now\n{{}}", calls=[("python", {"code": code}), NOW])
    yield Sample(f, f"all\nI run.>>>python\n{code}", answer="I run.", calls=[("python", {"code": code})])
    yield Sample(f, 'python\n{"code": "1"}', calls=[("python", {"code": "1"})])
    yield Sample(f, "python\n", answer="python\n")
    yield Sample(f, "Sunny.", answer="Sunny.")
    yield Sample(f, "al", answer="al")
    yield Sample(f, 'rome\n{"city": "Rome"}', answer='rome\n{"city": "Rome"}')


def _longcat() -> Iterator[Sample]:
    begin, end, think = "<longcat_tool_call>", "</longcat_tool_call>", ("<longcat_think>", "</longcat_think>")
    for f in ("longcat", "longcat_json"):
        yield from family(f, lambda calls: "\n".join(f"{begin}\n{obj(c)}\n{end}" for c in calls), think=think)
        key, value = "<longcat_arg_key>KEY</longcat_arg_key>\n", "<longcat_arg_value>VALUE</longcat_arg_value>\n"
        city = (key + value).replace("KEY", "city").replace("VALUE", "Rome")
        days = (key + value).replace("KEY", "days").replace("VALUE", "3")
        metric = (key + value).replace("KEY", "metric").replace("VALUE", "true")
        yield Sample(f, f"{begin}get_weather\n{city}{end}", calls=[ROME])
        yield Sample(f, f"{begin}get_weather\n{city}{days}{metric}{end}", calls=[ROME_3])
        yield Sample(f, f"{begin}get_weather\n{city}{end}\n{begin}now\n{end}", calls=[ROME, NOW])
        yield from _shown(f, f"{begin}so{end}", f"{begin}{{no{end}")


def _step3() -> Iterator[Sample]:
    f, begin, end = "step3", "<｜tool_calls_begin｜>", "<｜tool_calls_end｜>"

    def call(name: str, **values: str) -> str:
        inside = "".join(
            f'<steptml:parameter name="{key}">{value}</steptml:parameter>' for key, value in values.items()
        )
        head = "<｜tool_call_begin｜>function<｜tool_sep｜>"
        return f'{head}<steptml:invoke name="{name}">{inside}</steptml:invoke><｜tool_call_end｜>'

    rome = call("get_weather", city="Rome")
    yield Sample(f, f"{begin}{rome}{end}", calls=[ROME])
    in_lines = rome.replace("<steptml:parameter", "\n<steptml:parameter").replace(
        "</steptml:invoke", "\n</steptml:invoke"
    )
    yield Sample(f, f"{begin}{in_lines}{end}", calls=[ROME])
    yield Sample(f, f"I look.\n{begin}\n{rome}\n{call('now')}\n{end}", answer="I look.", calls=[ROME, NOW])
    yield Sample(f, f"{begin}{call('get_weather', city='Rome', days='3', metric='true')}{end}", calls=[ROME_3])
    yield Sample(f, f"{begin}{call('write_file', path='a.py', content=CODE)}{end}", calls=[FILE])
    yield Sample(f, f"{begin}{call('search', query='00123', limit='5')}", calls=[ZIP])
    yield Sample(f, f"<think>Hm.</think>{begin}{rome}{end}", reasoning="Hm.", calls=[ROME])
    yield from _shown(
        f, f"{begin} is a token.", f"{begin}<｜tool_call_begin｜>function<｜tool_sep｜>no<｜tool_call_end｜>{end}"
    )


MARKER_SAMPLES: Final = (
    *_hermes(),
    *_generic(),
    *_json(),
    *_llama(),
    *_lfm2(),
    *_olmo3(),
    *_mistral(),
    *_value_families(),
    *_json_families(),
    *_functionary(),
    *_longcat(),
    *_step3(),
)
