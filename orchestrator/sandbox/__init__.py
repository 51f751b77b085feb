"""The embedded cluster: SSH servers on loopback addresses, for trying orch on one machine."""
