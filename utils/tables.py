"""Rows of text as a Markdown table; a stretch of numbers as its name."""

from collections.abc import Mapping, Sequence


def markdown_table(rows: Sequence[Mapping[str, str]]) -> str:
    """A header with the rows' common keys and one line for each row; ends with a line feed. There must
    be at least one row."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(row.values()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def span_name(numbers: Sequence[int]) -> str:
    """The first and the last of `numbers`: `5-7`, or `5` if they are the same."""
    return "-".join(map(str, dict.fromkeys((numbers[0], numbers[-1]))))
