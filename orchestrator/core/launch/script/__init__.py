"""One file a format: a LaunchPlan as text that a reader, another program or a shell can use."""
