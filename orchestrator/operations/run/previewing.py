"""Plans a run without starting it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.core.inventory.choosing import chosen
from orchestrator.core.inventory.hosts import Host, Inventory
from orchestrator.core.inventory.sections.scheduler import Slurm
from orchestrator.core.inventory.target import Target
from orchestrator.core.launch.job import job_plan, node_count
from orchestrator.core.launch.mpirun import with_mpi
from orchestrator.core.launch.plan import LaunchPlan, assumed_facts, plan
from orchestrator.core.transfer.local_tree import hash_tree
from orchestrator.errors import UsageError
from orchestrator.local.hosts_file import environments_of, in_their_environments, read_inventory
from orchestrator.operations.run.options import RunOptions, new_run_id
from orchestrator.ui.display import Display


def hosts_of(target: Target) -> tuple[Host, ...]:
    """Return the hosts that the target chooses, without connecting to any. Raises UsageError, InventoryError."""
    return chosen(read_inventory(target.hosts_file), target)


def refuse_changed_code(made: LaunchPlan, options: RunOptions, written: Sequence[Path]) -> None:
    """Remove the files just written, and raise UsageError, if they have become part of the code that they name."""
    code = {trees[0] for trees in made.trees.values()}
    if code and code != {hash_tree(options.source.root).tree_id}:
        for file in written:
            file.unlink(missing_ok=True)
        raise UsageError(
            f"--output {written[0].parent}: as part of the project, it changes the code that the scripts name",
            remedy="choose a new folder or one outside the project, or name it in .orchignore",
        )


def preview(target: Target, options: RunOptions, display: Display, *, offline: bool) -> LaunchPlan:
    """Return the plan that ``launch_run`` would carry out.

    ``offline`` connects to no node and assumes what the inventory does not say. Raises OrchError.
    """
    if offline:
        inventory = read_inventory(target.hosts_file)
        for note in inventory.notes:
            target.note(note)
        if inventory.scheduler is not None:
            return _job_preview(inventory, inventory.scheduler, target, options)
        named = chosen(inventory, target)
        ready = in_their_environments(named, environments_of(named, target.hosts_file.parent))
        # Without facts, the address that SSH dials is the best guess at the master's.
        hosts = [replace(host, fabric_address=host.fabric_address or host.address) for host in ready]
        facts = {host.name: assumed_facts(host) for host in hosts}
        made = with_mpi(plan(hosts, inventory.rendezvous, options.spec, facts, new_run_id()), hosts, None)
        code = hash_tree(options.source.root).tree_id
        made = replace(made, trees={host.name: (code,) for host in hosts})
        note = "no node was asked: port, interpreter and number of GPUs are assumed; addresses are the inventory's"
        return replace(made, notes=(*made.notes, note))
    # Imported here because loading SSH takes longer than planning offline.
    from orchestrator.operations.cluster import open_cluster
    from orchestrator.operations.run.launching import prepare

    with open_cluster(target, interpreters=True) as opened:
        if opened.inventory.scheduler is not None:
            from orchestrator.operations.slurm.preparing import prepare_job

            slurm = opened.inventory.scheduler
            return prepare_job(opened, slurm, replace(options, data=False), display).plan
        return prepare(opened, replace(options, data=False), display).plan


def _job_preview(inventory: Inventory, slurm: Slurm, target: Target, options: RunOptions) -> LaunchPlan:
    """Return the plan of a job, without asking the login node."""
    (host,) = in_their_environments(inventory.hosts, environments_of(inventory.hosts, target.hosts_file.parent))
    made = job_plan(
        host,
        slurm,
        inventory.rendezvous,
        options.spec,
        assumed_facts(host),
        new_run_id(),
        node_count(slurm, target.nodes),
        options.max_restarts,
        [hash_tree(options.source.root).tree_id],
    )
    note = "the login node was not asked: its home folder and the interpreter are assumed"
    return replace(made, notes=(*made.notes, note))
