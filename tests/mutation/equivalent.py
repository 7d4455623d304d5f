"""Mutants that no test can tell from the module: (its path, the changed line) -> why it computes the same."""

EQUIVALENT: dict[tuple[str, str], str] = {}
