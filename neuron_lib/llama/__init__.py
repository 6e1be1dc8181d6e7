"""Typed facade over libllama. Everything here blocks, holds native memory, and knows no policy.

Only `bindings` imports llama_cpp. One thread may use a `Context` at a time; a `Vocab` may be used from any thread.
"""
