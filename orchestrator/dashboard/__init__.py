"""The dashboard: a web page about the runs that this machine has recorded, on loopback only."""
