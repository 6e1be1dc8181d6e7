"""The backend `remote`: models that live on another neuron, or at any server with an API like OpenAI's.

entry      what an operator says about such a server
listing    what the server says about its models. Pure
look       what one answer to the question for its models shows. Pure
watch      when a server counts as lost. Pure
engine     one server, from the moment at which it has the model until it is lost
harness    loads and unloads
backend    the description for a service
"""
