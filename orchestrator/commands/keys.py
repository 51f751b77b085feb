"""``orch keys``: logins with keys in place of passwords, to the hosts and between them, and the way back."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.core.inventory.target import Target
from orchestrator.errors import HostErrors, OrchError, UsageError
from orchestrator.operations.cluster import open_cluster
from orchestrator.operations.keys.installing import install
from orchestrator.operations.keys.linking import link_nodes
from orchestrator.operations.keys.options import KeysOptions
from orchestrator.operations.keys.undoing import undo
from orchestrator.remote.fanout import on_all
from orchestrator.remote.ssh.connection import Connection
from orchestrator.ui.display import Display


def keys(target: Target, options: KeysOptions, display: Display) -> int:
    """Set up logins with keys, or undo that. Return 0, or the code of the first host's error."""
    # New host keys are shown before they are recorded; the options know who accepts them.
    target = replace(target, settings=replace(target.settings, accept_new_host_keys=False))
    with open_cluster(target, spares_too=True) as opened:
        if opened.inventory.sandbox:
            raise UsageError("the embedded cluster has keys of its own; there is nothing to set up")
        if opened.inventory.scheduler is not None and opened.inventory.scheduler.login is None:
            raise UsageError("login: local needs no keys: jobs are submitted on this machine")
        if options.undo:
            return _report(undo(opened, options, display), len(opened.hosts), display)
        logins = install(opened, options, display)
        try:
            if options.between:
                link_nodes(opened, logins, options, display)
        finally:
            on_all(list(logins.links.values()), Connection.close)
    return _report(list(logins.errors.values()), len(opened.hosts), display)


def _report(errors: list[OrchError], hosts: int, display: Display) -> int:
    if not errors:
        return 0
    display.error(HostErrors(errors, hosts))
    return errors[0].exit_code
