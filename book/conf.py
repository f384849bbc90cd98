"""The site of README and notebooks, made by `make book`; its sources are those of the repository.

The folder of sources is the repository itself, so that a link or an image is followed as a code
host follows it, and a broken one is found. Nothing is executed and nothing is downloaded.
"""

import sys
from pathlib import Path

from sphinx.application import Sphinx

BOOK = Path(__file__).parent
sys.path.insert(0, str(BOOK))

project = "t2imu"
author = "t2imu contributors"
project_copyright = author
language = "en"

extensions = ["myst_nb", "sphinxcontrib.bibtex", "formulas", "mentions", "player"]
root_doc = "README"
include_patterns = ["README.md", "notebooks/*.ipynb", "workflow/CLUSTER.md"]
include_patterns += ["book/*.md", "data/prior/*.md"]
# Folders that need not be searched.
exclude_patterns = [".*", "book/_build", "book/contents.md", "data/raw", "data/runs", "figures"]
exclude_patterns += ["t2imu_utils", "tests"]
nitpicky = True
highlight_language = "none"
smartquotes = False

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
bibtex_bibfiles = ["references.bib"]
html_math_renderer = "mathml"

html_theme = "furo"
html_title = "t2imu: a paper that runs"
html_static_path = ["book.css"]
html_css_files = ["book.css"]
html_copy_source = False
html_show_sourcelink = False
html_use_index = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5394", "color-brand-content": "#0b5394"},
}


def add_contents(app: Sphinx, docname: str, source: list[str]) -> None:
    """README is the first page; a code host has no use for a table of contents of the site."""
    if docname == root_doc:
        source[0] += (BOOK / "contents.md").read_text(encoding="utf-8")


def add_index(app: Sphinx, failure: Exception | None) -> None:
    """What a server shows first."""
    if failure is None:
        page = f'<!doctype html><meta http-equiv="refresh" content="0; url={root_doc}.html">\n'
        (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_contents)
    app.connect("build-finished", add_index)
