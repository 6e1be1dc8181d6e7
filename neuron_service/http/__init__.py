"""How bytes of a client become requests of the application, and what a client may cost before that.

serving        a server for an application
connection     one connection: the way of a request, and where its bounds are applied
request_clock  which part of a request is arriving, how many bytes and how long that may take; pure
framing        checks of a request's form that uvicorn's parser does not make; pure
last_words     the answers that a connection gives by itself, without the application
cap            how many connections there may be
limits         the numbers
alarm, tcp     one timer, and the kernel's help for one connection
uvicorn_parts  every use of uvicorn
listening      the socket on which the service listens
"""
