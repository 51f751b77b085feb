"""The server process: ``python -m orchestrator.sandbox FOLDER STATE NAME...``."""

import os
import sys

from orchestrator.sandbox.server import main

main(sys.argv[1:])
# Commands of logins may still run; like a real sshd, this server does not wait for them.
os._exit(0)
