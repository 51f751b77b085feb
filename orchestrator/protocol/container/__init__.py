"""Messages about containers: the engine and its images, and a process that runs in a container."""
