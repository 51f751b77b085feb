"""Try whether this node can log in to other nodes by SSH without a password, as mpirun and DeepSpeed do."""

from __future__ import annotations

import threading

from ..host import bounded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...protocol.probe import SshServer

# Time limits for a connection and for a whole login, in seconds.
CONNECT_LIMIT, LIMIT = 5, 12.0
# Most logins at a time.
AT_ONCE = 8


def logins(targets: Sequence[SshServer]) -> dict[str, str]:
    """Log in to all targets; return ``{node: "ok" or a reason that ends with the last line of ssh}``."""
    results: dict[str, str] = {}
    places = threading.Semaphore(AT_ONCE)

    def work(target: SshServer) -> None:
        with places:
            results[target.node] = login(target)

    threads = [threading.Thread(target=work, args=(target,), daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def login(target: SshServer) -> str:
    """Log in once; the host key must be known, because those programs do not ask about keys either.

    Return ``ok`` or the reason why it failed.
    """
    options = ["BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=%d" % CONNECT_LIMIT]
    argv = ["ssh"] + [word for option in options for word in ("-o", option)]
    argv += ["-p", str(target.port), "-l", target.user, "--", target.address, "true"]
    try:
        bounded.run(argv, LIMIT)
        return "ok"
    except bounded.NoAnswer as error:
        return str(error)
