"""Jobs sent to a running Ray cluster: checked here, run there, followed to their own exit code."""
