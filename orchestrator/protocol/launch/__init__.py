"""Messages about launchers that do more on a node than run there."""
