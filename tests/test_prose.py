"""Numbers in the prose of chapters and labs: each decimal stands in an output of a lab, or is one of a short list."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = {path.name: path.read_text("utf-8") for path in sorted((ROOT / "book").glob("*.md"))}
CELLS = {
    path.stem: json.loads(path.read_text("utf-8"))["cells"] for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
}
DECIMAL = re.compile(r"(?<![\w./:-])\d+\.\d+(?:e-?\d+)?(?![\w.]*\d)")

#: Blocks that hold prose. Others hold code; a solution is computed by hand, or by the function that it shows.
TEXT = re.compile(r"\{(prf:\w+|admonition|exercise|note|tip|warning|important|figure|list-table)\}")

#: Decimals that nobody measured in a lab, with what they are.
STATED = {
    "audit.md": {"0.35": "a bound of the audit"},
    "checking.md": {"0.15": "a bound of the report", "0.3": "a bound of the report"},
    "index.md": {"3.11": "a version", "4.0": "a licence"},
    "map.md": {"1.2": "width of a line"},
    "need_learning.md": {
        "2.04": "by hand: 0.0192/0.0094", "0.08": "given", "0.02": "given", "0.005": "given", "0.00125": "by hand",
    },
    "order.md": {"3.4": "given"},
    "reverse_sde.md": {"10.2": "a section", "10.3": "a section"},
    "ddim_exponential": {"0.05": "a width that the cell sets"},
    "er_sde_cifar": {"0.002": "an end of the EDM grid"},
    "er_sde_order": {"0.5": "a mean", "0.25": "a variance", "0.05": "a bias"},
    "gddim_stochastic": {"0.002": "the noise of CLD at t = 0.001, printed by the order lab"},
    "order_measured": {"0.01": "an end of a grid", "0.001": "an end of a grid"},
    "quality_claims": {"1.44": "a variance that the cell sets"},
}  # fmt: skip
#: Pages whose numbers are those of stored files of results and of the networks' own records, not of labs.
STORED = {"training.md"}


def prose(text):
    """The text without code, mathematics, roles and addresses."""
    kept, open_ = [], []
    for line in text.split("\n"):
        if fence := re.match(r"\s*(`{3,}|:{3,})(.*)$", line):
            if fence[2].strip():
                open_.append((fence[1], bool(TEXT.match(fence[2].strip()))))
            elif open_ and len(fence[1]) >= len(open_[-1][0]):
                open_.pop()
            else:
                open_.append((fence[1], False))
        elif all(is_text for _, is_text in open_) and not re.match(r":[\w-]+:", line):
            kept.append(line)
    text = "\n".join(kept)
    for code in (r"\$\$.*?\$\$", r"\{[\w:]+\}`[^`]*`", r"`+[^`]*`+", r"\$[^$]*\$", r"\]\([^)]*\)"):
        text = re.sub(code, " ", text, flags=re.S)
    return text


def printed(cells):
    """The decimals in the outputs of a lab, with exponents as prose writes them."""
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    text = " ".join("".join(o.get("text") or o.get("data", {}).get("text/plain", "")) for o in outputs)
    return {re.sub(r"e(-?)0", r"e\1", number) for number in re.findall(r"\d+\.\d+(?:e[-+]?\d+)?", text)}


def named(cells):
    """The label of a lab."""
    return re.search(r"\((lab-[\w-]+)\)=", "".join("".join(cell["source"]) for cell in cells))[1]


LABS = {named(cells): printed(cells) for cells in CELLS.values()}


@pytest.mark.parametrize("page", [name for name in PAGES if name not in STORED])
def test_decimals_of_a_page_are_printed_by_a_lab_that_it_names(page):
    known = set().union(STATED.get(page, ()), *(LABS.get(lab, ()) for lab in re.findall(r"lab-[\w-]+", PAGES[page])))
    assert [number for number in DECIMAL.findall(prose(PAGES[page])) if number not in known] == []


@pytest.mark.parametrize("lab", CELLS)
def test_decimals_of_a_lab_are_printed_by_it(lab):
    known = printed(CELLS[lab]) | set(STATED.get(lab, ()))
    text = "\n".join(prose("".join(cell["source"])) for cell in CELLS[lab] if cell["cell_type"] == "markdown")
    assert [number for number in DECIMAL.findall(text) if number not in known] == []


def test_a_number_that_no_lab_prints_is_found():
    text = "It is 0.123 here, not $0.5$ or `0.7`.\n\n```python\n0.9\n```\n\n```{prf:proof}\nAnd 4.5e-3.\n```\n"
    assert DECIMAL.findall(prose(text)) == ["0.123", "4.5e-3"]


def test_what_is_stated_is_there():
    """No number stays in the list when it has left the page."""
    for name, numbers in STATED.items():
        cells = CELLS.get(name, ())
        text = PAGES.get(name) or "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        assert [number for number in numbers if number not in DECIMAL.findall(prose(text))] == []
