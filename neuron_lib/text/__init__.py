"""Pure text machines: prompt templates on the way in, stop strings, reasoning and tool calls on the way out.

Nothing here knows a model, a clock or a wire format. Import the modules by name: only `chat_template` costs Jinja.
"""
