"""Text in, text out: prompt templates on the way in; stop strings, reasoning and tool calls on the way out.

All modules are pure: they know no model, no clock and no wire format. Import them by name, because only `chat_template`
imports Jinja, which is slow.
"""
