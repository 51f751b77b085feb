"""Make a hosts file: ask for hosts, try each, propose the rest, write."""
