"""What an audit found, as a table on the terminal, a page in Markdown, or a page in HTML."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

Row = dict[str, Any]

HEADERS = ("sampler", "variant", "claims", "order", "last pair", "floor", "finest error", "NFE", "us", "remarks")


def cells(row: Row) -> list[str]:
    """One row as text, in the order of :data:`HEADERS`."""
    errors = [e for e in row["errors"] if e is not None]
    return [
        row["sampler"], row["variant"], "" if row["claim"] is None else str(row["claim"]),
        _number(row["order"], ".2f"), _number(row["last_pair"], ".2f"), _number(row["floor"], ".0e"),
        f"{errors[-1]:.1e}" if errors else "none", str(row["nfe"][-1]) if row["nfe"] else "",
        _number(row["microseconds"], ".0f"), "; ".join(row["remarks"]),
    ]  # fmt: skip


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def libraries(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """Rows by library and version, in the order in which they came."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(f"{row['library']} {row['version']}".strip(), []).append(row)
    return list(groups.items())


EXPLANATION = (
    "Probability-flow ODE of a mixture in R^4 with exact predictions, 64 starts, float64 wherever the library allows "
    "it. The error is the distance of the median start from the exact solution between the noise levels that the "
    "sampler really used. The order is a least-squares slope over the last four errors before a floor; a last slope "
    "below 0.35 is a floor. us: microseconds per evaluation outside the network."
)


def markdown(rows: Sequence[Row]) -> str:
    """A page."""
    lines = ["# Audit of samplers", "", EXPLANATION, ""]
    for name, group in libraries(rows):
        lines += [f"## {name}", "", f"| {' | '.join(HEADERS)} |", f"|{'---|' * len(HEADERS)}"]
        lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells(row))} |" for row in group]
        lines.append("")
    return "\n".join(lines)


def html(rows: Sequence[Row]) -> str:
    """A page without anything from elsewhere."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Audit of samplers</title><style>"
        "body{font:15px/1.5 sans-serif;margin:2em auto;max-width:80em;padding:0 1em}"
        "table{border-collapse:collapse;margin:1em 0}td,th{border-bottom:1px solid #ccc;padding:.25em .6em;"
        "text-align:left;vertical-align:top}td:nth-child(n+3):nth-child(-n+9){text-align:right;white-space:nowrap}"
        "</style><h1>Audit of samplers</h1>",
        f"<p>{escape(EXPLANATION)}</p>",
    ]
    for name, group in libraries(rows):
        head = "".join(f"<th>{escape(text)}</th>" for text in HEADERS)
        body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in cells(row)) + "</tr>" for row in group)
        parts.append(f"<h2>{escape(name)}</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
    return "".join(parts) + "</html>\n"
