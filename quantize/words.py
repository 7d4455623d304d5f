"""How errors and reports speak: what a mistyped word was meant to be, and plain-text tables."""

import difflib
from collections.abc import Iterable, Sequence


def did_you_mean(word: str, valid: Iterable[str]) -> str:
    """The tail of an error message: close names where there are any, then the valid ones."""
    valid = sorted(valid)
    close = difflib.get_close_matches(word, valid, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    shown = ", ".join(valid[:12]) + (f", ... ({len(valid)} in all)" if len(valid) > 12 else "")
    return f"{hint}valid: {shown or 'none'}"


def format_table(header: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[str] = ()) -> str:
    """Columns padded to their widest cell; the columns named in ``right`` are aligned to the right."""
    table = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    align = [str.rjust if name in set(right) else str.ljust for name in header]
    lines = ["  ".join(a(cell, w) for a, cell, w in zip(align, row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])
