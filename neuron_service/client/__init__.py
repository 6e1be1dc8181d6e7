"""A small synchronous client of a neuron: JSON calls and server-sent events, over TCP, TLS or a Unix socket.

address      where a neuron is, from a text such as `gpu1:13131`, `https://gpu1` or `unix:/run/neuron/socket`
client       calls and streams
connection   one HTTP connection to an address
event_lines  the lines of server-sent events
problem      a call that failed
translation  what has failed, in one sentence, with an exit status

Imports only the standard library, and `http.client` only with `client`, because commands wait for their imports.
"""
