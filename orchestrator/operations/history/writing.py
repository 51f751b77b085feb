"""Write the record of a run when it starts, and keep the code that it runs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from orchestrator import __version__
from orchestrator.core.history.record import Code, GitState, Place, RunRecord, masked_spec, to_json
from orchestrator.core.launch.plan import LaunchPlan
from orchestrator.core.text.secret import masked, masked_words
from orchestrator.core.transfer.local_tree import LocalTree
from orchestrator.local.history.code import CodeStore
from orchestrator.local.history.git import git_state
from orchestrator.local.history.runs import RECORD, write_whole
from orchestrator.local.run_folder import RunFolder
from orchestrator.operations.cluster import OpenCluster
from orchestrator.operations.run.function import PROJECT as FUNCTION
from orchestrator.operations.run.options import RunOptions
from orchestrator.ui.display import Display

Git = Future[tuple[GitState | None, str]]
DIFF = "code.diff"
# Options that --again takes over.
KEPT = (
    "resume",
    "check",
    "sync",
    "max_restarts",
    "node_timeout",
    "on_disconnect",
    "collect_every",
    "grace",
    "limit",
    "hang_timeout",
    "on_hang",
)


@contextmanager
def asking_git(root: Path) -> Iterator[Git]:
    """Ask git about the project's folder while the body runs."""
    with ThreadPoolExecutor(1) as beside:
        yield beside.submit(git_state, root)


def keep_record(
    folder: RunFolder,
    opened: OpenCluster,
    options: RunOptions,
    made: LaunchPlan,
    tree: LocalTree,
    git: Git,
    environments: Sequence[str],
    display: Display,
) -> None:
    """Write the record of a run that is about to start. If that fails, say so: the run can do without."""
    state, diff = git.result()
    # The arguments of a function, which may be secrets, are part of its code.
    kept = made.spec.workload.project != FUNCTION
    record = RunRecord(
        run_id=made.run_id,
        began=time.time(),
        name=options.name,
        workload=made.spec.workload.name,
        args=tuple(masked_words(made.spec.args)),
        nodes=tuple(node.node for node in made.nodes),
        world_size=made.world_size,
        place=_place(opened, made),
        code=_code(options, tree, state) if kept else None,
        spec=masked_spec(made.spec),
        options={name: getattr(options, name) for name in KEPT},
        python=tuple(environments),
        orch=__version__,
    )
    try:
        if kept:
            CodeStore(folder.path.parent).keep(tree)
        if diff and options.again is None:
            (folder.path / DIFF).write_text(masked(diff))
        write_whole(folder.path / RECORD, to_json(record))
    except OSError as error:
        display.note(f"cannot keep the code of this run: {error.strerror}; orch run --again will not know it")


def _code(options: RunOptions, tree: LocalTree, git: GitState | None) -> Code:
    if options.again is not None:
        return options.again
    return Code(tree.tree_id, str(options.source.root), len(tree.entries), tree.size, git)


def _place(opened: OpenCluster, made: LaunchPlan) -> Place:
    """Return the hosts as the user named them, and what chooses the same of them again."""
    asked = opened.target
    nodes = asked.nodes if opened.inventory.scheduler else ",".join(node.node for node in made.nodes)
    if asked.include:
        nodes = None
    first = None if opened.inventory.scheduler else made.nodes[0].node
    return Place(str(asked.hosts_file), str(Path.cwd()), nodes, first, asked.include, asked.exclude)
