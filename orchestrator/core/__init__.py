"""Pure decisions: values in, values out. No sockets, subprocesses, clock, environment variables or printing."""
