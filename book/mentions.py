"""Cross-references from plain text, so that README and notebooks stay free of Sphinx's markup.

Prose that says "eq. (3)", "Fig. 1", "Table I", "notebook 05" or "Guo et al. 2022" links to the
equation, to the heading that names the figure or table, to the notebook, and to the bibliography.
"""

import re
from pathlib import Path
from typing import Any

from citations import labels
from docutils import nodes
from pybtex.plugin import register_plugin
from pybtex.style.formatting.unsrt import Style as UnsrtStyle
from pybtex.style.labels import BaseLabelStyle
from pybtex.style.sorting import BaseSortingStyle
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinxcontrib.bibtex.roles import CiteRole

LABELS = labels((Path(__file__).parent / "references.bib").read_text(encoding="utf-8"))
KEYS = {label: key for key, label in LABELS.items()}

FIGURE = r"(?P<figure>\bFig\.\s\d\b|\bTable\sI\b)"
MENTION = re.compile(
    r"(?:(?<=\b[Ee]q\.\s)|(?<=\b[Ee]quation\s))\((?P<equation>\d)\)"
    rf"|{FIGURE}|\b[Nn]otebook\s(?P<notebook>\d\d)\b|\b(?P<citation>"
    + "|".join(re.escape(label).replace(r"\ ", r"\s") for label in KEYS)
    + r")\b"
)
LEFT_ALONE = (
    nodes.FixedTextElement, nodes.literal, nodes.math, nodes.raw, nodes.reference, nodes.title,
    pending_xref,
)  # fmt: skip


def target(text: str) -> str:
    """Label of a figure or table of the paper: ``Fig. 1`` → ``fig-1``."""
    return nodes.make_id(text)


class Headings(SphinxTransform):
    """A figure or table is where a notebook's heading names it, the last if several do."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        if not self.env.docname.startswith("notebooks/"):
            return
        for section in self.document.findall(nodes.section):
            for found in re.finditer(FIGURE, section.next_node(nodes.title).astext()):
                place = self.env.docname, section["ids"][0]
                self.env.domains.standard_domain.anonlabels[target(found[0])] = place


class Mentions(SphinxTransform):
    """Puts references in the place of what `MENTION` finds in running text."""

    default_priority = 410

    def apply(self, **kwargs: Any) -> None:
        # A line's end parts a paragraph's text in two, and "eq. (3)" with it.
        for parent in list(self.document.findall(nodes.TextElement)):
            joined: list[nodes.Node] = []
            for child in parent.children:
                if joined and isinstance(child, nodes.Text) and isinstance(joined[-1], nodes.Text):
                    joined[-1] = nodes.Text(joined[-1].astext() + child.astext())
                else:
                    joined.append(child)
            parent.children = []
            parent.extend(joined)
        for text in list(self.document.findall(nodes.Text)):
            if not any(isinstance(node, LEFT_ALONE) for node in ancestors(text)):
                parts = self.parts(text.astext())
                if len(parts) > 1:
                    text.parent.replace(text, parts)

    def parts(self, text: str) -> list[nodes.Node]:
        made: list[nodes.Node] = []
        end = 0
        for found in MENTION.finditer(text):
            reference = self.reference(found)
            if reference is not None:
                made += [nodes.Text(text[end : found.start()]), reference]
                end = found.end()
        return [*made, nodes.Text(text[end:])]

    def reference(self, found: re.Match[str]) -> nodes.Node | None:
        kind = found.lastgroup
        if kind == "equation":
            return self.pending("math", "eq", f"eq-{found['equation']}", found[0])
        if kind == "figure":
            return self.pending("std", "ref", target(found[0]), found[0])
        if kind == "notebook":
            prefix = f"notebooks/{found['notebook']}_"
            page = next((d for d in sorted(self.env.found_docs) if d.startswith(prefix)), None)
            if page in (None, self.env.docname):
                return None
            return self.pending("std", "doc", f"/{page}", found[0])
        role = CiteRole()
        role.target = KEYS[" ".join(found[0].split())]
        node = self.pending("cite", "label", role.target, found[0])
        return role.result_nodes(self.document, self.env, node, True)[0][0]

    def pending(self, domain: str, kind: str, name: str, text: str) -> pending_xref:
        return pending_xref(
            "", nodes.inline(text, text), refdomain=domain, reftype=kind, reftarget=name,
            refexplicit=True, refwarn=True, refdoc=self.env.docname,
        )  # fmt: skip


class ImageTexts(SphinxTransform):
    """What a screen reader says of a figure that a cell has drawn: the section it belongs to."""

    default_priority = 410

    def apply(self, **kwargs: Any) -> None:
        for image in self.document.findall(nodes.image):
            section = next((n for n in ancestors(image) if isinstance(n, nodes.section)), None)
            if section is not None and not image.get("alt"):
                image["alt"] = f"Figure: {section.next_node(nodes.title).astext()}"


def ancestors(node: nodes.Node) -> list[nodes.Node]:
    found = []
    while node.parent is not None:
        node = node.parent
        found.append(node)
    return found


class AuthorYearLabels(BaseLabelStyle):
    def format_labels(self, sorted_entries):
        return [LABELS[entry.key] for entry in sorted_entries]


class ByLabel(BaseSortingStyle):
    def sorting_key(self, entry):
        return LABELS[entry.key].lower()


class AuthorYear(UnsrtStyle):
    """Entries in alphabetical order, with the labels that the text has."""

    default_sorting_style = ByLabel
    default_label_style = AuthorYearLabels


def setup(app: Sphinx) -> dict[str, Any]:
    register_plugin("pybtex.style.formatting", "author-year", AuthorYear)
    for transform in (Headings, Mentions, ImageTexts):
        app.add_transform(transform)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
