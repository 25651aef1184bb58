"""Sphinx extension: pictures that a lab draws say to a screen reader that their caption describes them.

Without a text of its own the name of a picture's file would be read out. A picture without a caption is an error.
"""

from docutils import nodes
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
TEXT = "Picture. The caption says what it shows."


def describe(app, doctree, page):
    """Give every picture without a text one, where there is a caption to point to."""
    for image in doctree.findall(nodes.image):
        if image.get("alt"):
            continue
        if isinstance(image.parent, nodes.figure) and any(image.parent.findall(nodes.caption)):
            image["alt"] = TEXT
        elif page.startswith("notebooks/"):
            LOGGER.warning("a picture has neither text nor caption", location=image)


def setup(app):
    """Register with Sphinx."""
    app.connect("doctree-resolved", describe)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
