"""Child processes of the daemon: engines, fetches, tools of vendors, and programs that serve a model by themselves.

process        starts a process, waits for it with a limit, and ends it for certain
log            reads what a process writes, line by line, into the daemon's log
watchdog       decides whether a process gets on
environment    chooses the environment variables that a process is given
parent_death   runs inside the child process: the child ends with the daemon

The modules know nothing of what a process is for. Nothing is imported here: a child process needs `parent_death` alone.
"""
