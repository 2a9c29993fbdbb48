"""Rows of text as a Markdown table, and names of stretches of numbers."""

from collections.abc import Mapping, Sequence


def markdown_table(rows: Sequence[Mapping[str, str]]) -> str:
    """One line for each of `rows`, at least one, under their common keys; ends with a line feed."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(row.values()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def span_name(numbers: Sequence[int]) -> str:
    """`5-7` of the first and the last of `numbers`, or `5` where they are one."""
    return "-".join(map(str, dict.fromkeys((numbers[0], numbers[-1]))))
