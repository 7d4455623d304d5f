"""The dry run: which layers become binary, which stay float, and why."""
