"""How another machine is reached: SSH, and what this machine's own programs do for it."""
