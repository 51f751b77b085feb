"""The messages that the control machine and its nodes exchange, defined once.

Both sides import this package: the control side as a part of orch, the node from the zipapp shipped to it. The
package uses the standard library only, runs on Python 3.7, and imports neither ``typing`` nor ``dataclasses`` at
run time: importing them takes 20 ms, and a call of the node program takes 50 ms in all.
"""

# Incremented when a message changes in a way that the other side must know of. Each side reads all versions up
# to its own.
VERSION = 1
