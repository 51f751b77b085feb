"""``orch init``: make a hosts file from hosts that the user names, or from another tool's file; or add to one."""

from __future__ import annotations

from orchestrator.core.inventory.draft.compose import compose
from orchestrator.core.inventory.schema import SCHEMA_FILE
from orchestrator.errors import Interrupted
from orchestrator.local.drafts import may_write_schema, write_new, write_schema
from orchestrator.operations.setup.completing import Completing, next_steps, reservations
from orchestrator.operations.setup.existing import added, settled
from orchestrator.operations.setup.gathering import Gathering, InitOptions
from orchestrator.ui.display import Display
from orchestrator.ui.inventory.questions import Questions
from orchestrator.ui.inventory.trials import show_file, show_next


def init(options: InitOptions, questions: Questions, display: Display) -> int:
    """Ask for what the options leave open, try the hosts, and write the file. Return 0.

    Raises UsageError, InventoryError, HostErrors; then nothing is written.
    """
    options = settled(options, questions, display)
    output = options.output
    if options.add:
        addition = added(options, questions, display)
        found, text, shown, schema = addition.found, addition.text, addition.text, False
        notes = [*reservations(found), *([addition.note] if addition.note else [])]
    else:
        found = Gathering(options, questions, display).gather()
        draft = Completing(found, options, questions, display).complete()
        schema = options.schema and may_write_schema(output)
        shown, text = compose(draft), compose(draft, SCHEMA_FILE if schema else None)
        notes = reservations(found)
    show_file(display, str(output), shown)
    for note in notes:
        display.note(note)
    if not questions.confirm(f"write {output}?", True):
        raise Interrupted("nothing is written")
    if found.packages:
        file, packages = found.packages
        write_new(file, packages, replace=False)
        display.note(f"wrote {file}")
    write_new(output, text, replace=options.force or options.add)
    if schema:
        write_schema(output)
    beside = f", and {output.with_name(SCHEMA_FILE)}, by which editors check it" if schema else ""
    display.note(f"wrote {output}{beside}")
    show_next(display, next_steps(found, output))
    return 0
