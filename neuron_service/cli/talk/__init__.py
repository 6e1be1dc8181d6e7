"""`neuron run` and `neuron chat`: a person and a model talk in a terminal.

pieces         what a reply consists of, and what a speaker is
conversation   the messages so far, and the file that they are saved in
typed          what a typed line means: a message, or a command such as /save
screen         how a reply is shown
in_process     a speaker that loads the model in this process
repl           the loop: reads what is typed, acts, shows the reply
one_answer     one prompt and its reply
"""
