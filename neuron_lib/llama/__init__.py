"""Typed access to libllama. Everything here blocks and holds native memory. There is no policy here.

Only `bindings` imports llama_cpp. One thread at a time may use a `Context`. Any thread may use a `Vocab`.
"""
