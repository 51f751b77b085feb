"""The pure core: values in, values out. No sockets, subprocesses, clock, environment or printing."""
