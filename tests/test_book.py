"""What the site of README and notebooks is made of; `make book` itself fails on a broken link."""

import re
import runpy
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest

from t2imu_utils.runs import ROOT, STAGES

BOOK = ROOT / "book"
labels = runpy.run_path(str(BOOK / "citations.py"))["labels"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [ROOT / "README.md", *sorted(BOOK.glob("*.md")), ROOT / "workflow" / "CLUSTER.md"]
PAGES += [ROOT / "data" / "prior" / "README.md", *NOTEBOOKS]


def prose(path: Path) -> str:
    """What a person wrote on a page, without the code."""
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def bibliography() -> dict[str, str]:
    return labels((BOOK / "references.bib").read_text(encoding="utf-8"))


def test_every_notebook_is_in_the_contents_in_order():
    listed = re.findall(r"^/(\S+)$", (BOOK / "contents.md").read_text(), re.MULTILINE)
    assert [Path(d).name for d in listed if d.startswith("notebooks/")] == list(STAGES)
    others = [d for d in listed if not d.startswith("notebooks/")]
    assert others and all((ROOT / f"{d}.md").is_file() for d in others)
    pages = {f"book/{p.stem}" for p in BOOK.glob("*.md")} - {"book/contents"}
    assert pages <= set(others)


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_work_that_is_cited_is_in_the_bibliography(path, bibliography):
    pattern = r"[^\W\d_][\w-]+ (?:et al\.|& [\w-]+),? \(?\d{4}[a-z]?"
    cited = re.findall(pattern, one_line(prose(path)))
    known = tuple(bibliography.values())
    assert [work for work in cited if not any(label.endswith(work) for label in known)] == []


def test_every_work_in_the_bibliography_is_cited(bibliography):
    inputs = (ROOT / "data" / "inputs.yaml").read_text(encoding="utf-8").replace(" and ", " & ")
    text = one_line("\n".join([*map(prose, PAGES), inputs]))
    assert [label for label in bibliography.values() if label not in text] == []


def test_every_equation_that_is_named_is_there_once():
    text = "\n".join(map(prose, PAGES))
    there = re.findall(r"\\tag\{(\d+)\}", text)
    assert sorted(there) == [str(n) for n in range(1, 9)]
    assert set(re.findall(r"\b[Ee]q(?:\.|uation)\s\((\d)\)", text)) <= set(there)


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_lead_to_files(path):
    links = re.findall(r"\]\(([^)\s]+)\)", prose(path))
    files = [unquote(urlsplit(link).path) for link in links if not urlsplit(link).scheme]
    assert [f for f in files if f and not (path.parent / f).exists()] == []


def test_the_player_draws_itself(tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None or not (page := BOOK / "_build" / "html" / "player.html").is_file():
        pytest.skip("needs Chromium, and the site (`make book`)")
    options = "--headless --no-sandbox --disable-gpu --enable-unsafe-swiftshader"
    options += " --disable-background-networking --virtual-time-budget=9000"
    options += f" --user-data-dir={tmp_path}"
    command = [browser, *options.split(), "--dump-dom", page.as_uri()]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    drawn = found[found.index('class="main-svg"') :]
    assert "<canvas" in drawn and drawn.count("trace scatter") == 10  # a cursor and nine sensors
