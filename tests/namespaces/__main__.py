"""Start a cluster by hand: ``python -m tests.namespaces up 3`` runs three hosts until Ctrl-C."""

import argparse
import contextlib
import shlex
import signal
import sys
from types import FrameType

from tests.namespaces.namespaces import MOST_HOSTS, Cluster
from tests.namespaces.switch import ClusterError


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.namespaces", description=__doc__)
    up = parser.add_subparsers(dest="verb", required=True).add_parser(
        "up", help="start N hosts, stop them on Ctrl-C"
    )
    up.add_argument("n", type=int, metavar="N", help=f"number of hosts, 1 to {MOST_HOSTS}")
    up.add_argument("--python", help="interpreter named in the inventory (default: the hosts' own python3)")
    up.add_argument("--mbit", type=float, help="limit every link to MBIT megabits a second")
    up.add_argument("--password", metavar="WORD", help="root logs in with WORD and with no key")
    return parser.parse_args()


def _cluster(options: argparse.Namespace) -> Cluster:
    return Cluster(options.n, python=options.python, password=options.password)


def _instructions(cluster: Cluster) -> str:
    inventory = cluster.folder / "hosts.yaml"
    inventory.write_text(cluster.hosts_yaml())
    ssh = shlex.join(cluster.ssh(cluster.hosts[0]))
    return "\n".join(
        [
            f"{len(cluster.hosts)} hosts, addresses from {cluster.hosts[0].address}; Ctrl-C stops them.",
            "In another shell:",
            f"  export HOME={shlex.quote(str(cluster.control_home))}",
            f"  export ORCH_HOSTS={shlex.quote(str(inventory))}",
            "  unset SSH_AUTH_SOCK",
            f"Host keys, to compare fingerprints (ssh-keygen -lf): {cluster.known_hosts}",
            f"Logs, homes and keys: {cluster.folder}",
            f"A shell on {cluster.hosts[0].name}: {ssh}",
        ]
    )


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> None:
    options = _arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        with contextlib.suppress(KeyboardInterrupt), _cluster(options) as cluster:
            if options.mbit is not None:
                for host in cluster.hosts:
                    host.slow(options.mbit)
            print(_instructions(cluster), flush=True)
            while True:
                signal.pause()
    except (ClusterError, ValueError) as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
