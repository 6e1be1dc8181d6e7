"""Child processes of the daemon: engines, fetches, tools of vendors, and programs that serve a model by themselves.

process        starts a process, waits for it with a limit, and makes sure that it ends
log            reads what a process writes, line by line, into the daemon's log
watchdog       decides whether a process makes progress
environment    chooses the environment variables that a process is given
parent_death   runs inside the child process: the child ends with the daemon

The modules do not know what a process is for. This file imports nothing, because a child needs `parent_death` alone.
"""
