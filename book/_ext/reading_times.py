"""Sphinx extension: the role ``times``, how long a chapter takes, counted in its source and in those of its labs.

``{times}`linear_sde``` is "50 minutes for the page, 35 for the lab, 3 hours for all exercises", and
``{times}`linear_sde page``` its first two words. A page: its words
without hints, exercises and solutions, and its displayed formulas. A lab: the words of its text, and its cells of code.
Exercises: their dots. The constants below are what the book's page on the way through it says.
"""

import json
import re
from pathlib import Path

import yaml
from docutils import nodes

ROOT = Path(__file__).resolve().parents[2]
WORDS, FORMULA, CELL, DOT = 90, 2, 1, 15  # words a minute; minutes
APART = re.compile(
    r"^(`{3,})\{(exercise|solution|admonition|code|literalinclude|figure|image)\}.*?^\1\s*$", re.M | re.S
)


def page(name):
    """Minutes for reading a page."""
    text = APART.sub("", (ROOT / "book" / f"{name}.md").read_text(encoding="utf-8"))
    prose, formulas = re.subn(r"^\$\$.*?^\$\$", "", text, flags=re.M | re.S)
    return len(prose.split()) / WORDS + formulas * FORMULA


def lab(path):
    """Minutes for working through a lab."""
    cells = json.loads((ROOT / f"{path}.ipynb").read_text(encoding="utf-8"))["cells"]
    words = sum(len("".join(c["source"]).split()) for c in cells if c["cell_type"] == "markdown")
    return words / WORDS + CELL * sum(c["cell_type"] == "code" for c in cells)


def exercises(name):
    """Minutes for all exercises of a page."""
    text = (ROOT / "book" / f"{name}.md").read_text(encoding="utf-8")
    return DOT * sum(title.count("•") for title in re.findall(r"^`{3,}\{exercise\} (.*)", text, re.M))


def labs(name):
    """The labs of a page, from the table of contents."""
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))["parts"]
    chapters = [chapter for part in parts for chapter in part["chapters"] if chapter["file"] == f"book/{name}"]
    files = [section["file"] for chapter in chapters for section in chapter.get("sections", [])]
    return [file for file in files if file.startswith("notebooks/")]


def sentence(name):
    """What the opening of a chapter says."""
    own, dots = labs(name), exercises(name)
    text = f"{near(page(name))} minutes"
    if own:
        text += f" for the page, {near(sum(map(lab, own)))} for the {'lab' if len(own) == 1 else 'labs'}"
    if dots:
        hours = round(dots / 30) / 2
        text += f", {hours:g} {'hour' if hours == 1 else 'hours'} for all exercises"
    return text


def near(minutes):
    """To five minutes."""
    return max(5, 5 * round(minutes / 5))


def times(name, rawtext, text, lineno, inliner, options=None, content=None):
    """The role."""
    env, (page_, _, alone) = inliner.document.settings.env, text.partition(" ")
    for file in (f"book/{page_}.md", "_toc.yml", *(f"{path}.ipynb" for path in labs(page_))):
        env.note_dependency(str(ROOT / file))
    return [nodes.Text(f"{near(page(page_))} minutes" if alone else sentence(page_))], []


def setup(app):
    app.add_role("times", times)
    return {"parallel_read_safe": True}
