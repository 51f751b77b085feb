"""The control machine's side of ``node/container``."""
