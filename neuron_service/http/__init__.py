"""How bytes of a client become requests of the application, and what a client may cost before that.

serving        a server for an application
connection     one connection: the way of a request, and where its bounds are applied
request_clock  which part of a request is arriving, how many bytes and how long that may take; pure
framing        what uvicorn's parser leaves open about the form of a request; pure
last_words     what a connection answers by itself, when no application is asked
cap            how many connections there may be
limits         the numbers
alarm, tcp     one timer, and what the kernel does for one connection
uvicorn_parts  every use of uvicorn
listening      the socket that is listened on
"""
