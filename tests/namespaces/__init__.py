"""Hosts made of Linux namespaces with a real sshd each, for tests and benchmarks. Needs root."""

import os

from tests.namespaces.host import NodeHost, Process
from tests.namespaces.namespaces import Cluster, missing
from tests.namespaces.switch import ClusterError

__all__ = ["Cluster", "ClusterError", "NodeHost", "Process", "missing", "require"]


def require() -> None:
    """Skip the test where no cluster can be made, or fail it if ``CI`` is set. For fixtures."""
    import pytest  # benchmarks use this package without pytest

    reason = missing()
    if reason is None:
        return
    if os.environ.get("CI"):
        pytest.fail(f"CI must run the cluster tests: {reason}")
    pytest.skip(reason)
