"""``orch init``: make a hosts file from hosts that the user names, or from another tool's file."""

from __future__ import annotations

from orchestrator.core.inventory.draft.compose import compose
from orchestrator.core.inventory.schema import SCHEMA_FILE
from orchestrator.errors import Interrupted
from orchestrator.local.drafts import may_write_schema, refuse_existing, write_new, write_schema
from orchestrator.operations.setup.completing import Completing, next_steps
from orchestrator.operations.setup.gathering import Gathering, InitOptions
from orchestrator.ui.display import Display
from orchestrator.ui.inventory.questions import Questions
from orchestrator.ui.inventory.trials import show_file, show_next


def init(options: InitOptions, questions: Questions, display: Display) -> int:
    """Ask for what the options leave open, try the hosts, and write the file. Return 0.

    Raises UsageError, InventoryError, HostErrors; then nothing is written.
    """
    output = options.output
    if not options.force:
        refuse_existing(output)
    found = Gathering(options, questions, display).gather()
    draft = Completing(found, options, questions, display).complete()
    show_file(display, str(output), compose(draft))
    if not questions.confirm(f"write {output}?", True):
        raise Interrupted("nothing is written")
    schema = options.schema and may_write_schema(output)
    if found.packages:
        file, packages = found.packages
        write_new(file, packages, replace=False)
        display.note(f"wrote {file}")
    write_new(output, compose(draft, SCHEMA_FILE if schema else None), replace=options.force)
    if schema:
        write_schema(output)
    display.note(f"wrote {output}")
    show_next(display, next_steps(found, output))
    return 0
