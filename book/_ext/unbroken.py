"""Sphinx extension: a number with an exponent, 1.2e-07, is one word; a browser would break it behind the hyphen."""

import re

from docutils import nodes

NUMBER = re.compile(r"(\d(?:[.\d]*)e-\d+)")


def keep(app, doctree, page):
    """Wrap such numbers of the text, of tables above all, for the style sheet to hold together."""
    for text in list(doctree.findall(nodes.Text)):
        parts = NUMBER.split(text)
        if len(parts) > 1 and not isinstance(text.parent, nodes.literal | nodes.literal_block | nodes.raw):
            pieces = [nodes.inline("", part, classes=["number"]) if i % 2 else nodes.Text(part)
                      for i, part in enumerate(parts) if part]  # fmt: skip
            text.parent.replace(text, pieces)


def setup(app):
    """Register with Sphinx."""
    app.connect("doctree-resolved", keep)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
