"""The client's side of an API like OpenAI's: a model of another server as a `LoadedModel` of this host.

A backend gives an address and says how the server lives and dies (`engine.UpstreamEngine`); everything about requests
is here. Pure modules decide what is sent and what an answer means, and `reply` acts.

address      where a server is, and the key for it
facts        what its model is
engine       how it lives and dies
api          which parameters a server knows
bodies       a task as a request
sse          the bytes of a stream as its events
chunks       the JSON of a stream
reading      the JSON of a stream as our events
answers      other answers as our events
refusals     an answer that is no success as our error
hops         how often a request was passed on
connection   HTTP/1.1 on one connection
unix_stream  a connection to a Unix socket
client       the connections to one server
seats        whose turn it is
reply        one request from its admission to its end
model        the model
"""
