"""Installation of the user's public key on a host by ssh-copy-id, which asks for the password once."""

from __future__ import annotations

import subprocess
from pathlib import Path

from orchestrator.core.inventory.hosts import Host
from orchestrator.errors import AuthenticationFailed


def install_key(host: Host) -> None:
    """Run ssh-copy-id on the user's terminal. Raises AuthenticationFailed if it does not succeed."""
    argv = ["ssh-copy-id"]
    if host.identity_file:
        argv += ["-i", str(Path(host.identity_file).expanduser())]
    if host.port:
        argv += ["-p", str(host.port)]
    argv.append(f"{host.user}@{host.address}" if host.user else host.address)
    try:
        code = subprocess.run(argv, check=False).returncode
    except OSError as error:
        raise AuthenticationFailed(f"ssh-copy-id cannot be started: {error.strerror}", host=host.name) from None
    if code:
        raise AuthenticationFailed(
            f"ssh-copy-id ended with exit code {code}", remedy="run ssh-copy-id by hand", host=host.name
        )
