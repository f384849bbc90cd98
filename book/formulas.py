r"""LaTeX as MathML, made when the site is built: pages need no script, and none from elsewhere.

An equation is numbered where its source says so, with ``\tag{3}``, as code hosts show it. Its
number is that of the paper, and its label ``eq-3``. The font, STIX Two Math, is the one that the
package ziamath brings along, cut down to the characters that formulas are likely to use.
"""

import logging
import re
from pathlib import Path
from typing import Any

import ziamath
from docutils import nodes
from fontTools import subset
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.writers.html5 import HTML5Translator

TAG = re.compile(r"\s*\\tag\{(\d+)\}")
FONT = Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf"
# Latin, Greek, accents, dashes and primes, double-struck, arrows, operators, brackets, and the
# italic letters that browsers put in the place of those in <mi>.
RANGES = [
    (0x20, 0x7E), (0xA0, 0xFF), (0x300, 0x30C), (0x391, 0x3F5), (0x2010, 0x2044), (0x20D7, 0x20D7),
    (0x2102, 0x2124), (0x2190, 0x2194), (0x21D2, 0x21D4), (0x2200, 0x2297), (0x22C5, 0x22C6),
    (0x2308, 0x230B), (0x27E8, 0x27E9), (0x1D434, 0x1D467), (0x1D538, 0x1D56B), (0x1D6E2, 0x1D71B),
]  # fmt: skip


class Equations(SphinxTransform):
    r"""Equations with ``\tag{n}`` get number n and can be referred to as ``eq-n``."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        domain = self.env.domains.math_domain
        for node in self.document.findall(nodes.math_block):
            latex = node.astext()
            found = TAG.search(latex)
            if not found:
                continue
            label = f"eq-{found[1]}"
            domain.note_equation(self.env.docname, label, location=node)
            # Sphinx counts; the numbers here are the paper's.
            domain.equations[label] = (self.env.docname, int(found[1]))
            node.children = [nodes.Text(TAG.sub("", latex))]
            node["number"], node["label"] = int(found[1]), label
            node["ids"].append(f"equation-{label}")


def visit_math(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def visit_math_block(self: HTML5Translator, node: nodes.math_block) -> None:
    self.body.append(self.starttag(node, "div", CLASS="math notranslate nohighlight"))
    self.body.append(convert(node.astext(), display="block"))
    if node["number"] is not None:
        self.body.append(f'<span class="eqno">({node["number"]})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append("</div>\n")
    raise nodes.SkipNode


def write_font(app: Sphinx, failure: Exception | None) -> None:
    path = Path(app.outdir) / "_static" / "math.woff"
    if failure is not None or path.exists():
        return
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    options = subset.Options(flavor="woff", notdef_outline=True)
    font = subset.load_font(str(FONT), options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=[c for first, last in RANGES for c in range(first, last + 1)])
    subsetter.subset(font)
    subset.save_font(font, str(path), options)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_transform(Equations)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.connect("build-finished", write_font)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
