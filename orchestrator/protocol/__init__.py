"""What the control machine and its nodes say to each other, defined once.

Both sides import this package: the control side as a part of orch, the node from the zipapp that is shipped to it.
So it holds standard library only, runs on Python 3.7, and imports neither ``typing`` nor ``dataclasses`` at run
time: a node program that lives for fifty milliseconds has no twenty to spend on them.
"""

# Raised when a message changes in a way that the other side must know of. Both sides read all versions up to it.
VERSION = 1
