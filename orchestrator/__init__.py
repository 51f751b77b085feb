"""orch: multi-node PyTorch training on machines that answer SSH."""

__version__ = "0.1.0"
