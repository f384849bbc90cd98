"""How `references.bib` is cited in plain text: "Guo et al. 2022", "Zhang et al. 2023a"."""

import re
from collections import Counter

ENTRY = re.compile(r"^@\w+\{(?P<key>[^,]+),(?P<fields>.*?)^\}", re.MULTILINE | re.DOTALL)
FIELD = r"^\s*{}\s*=\s*\{{(.*)\}},$"
LETTERS = "abcdefgh"


def author_year(authors: list[str], year: str) -> str:
    """Authors as ``Family, Given``: one by name, two with &, more as et al."""
    families = [author.split(",")[0].strip("{} ") for author in authors]
    names = " & ".join(families) if len(families) < 3 else f"{families[0]} et al."
    return f"{names} {year}"


def labels(bibliography: str) -> dict[str, str]:
    """Key → label of every entry; where several would have the same, a letter in their order.

    Args:
        bibliography: text of a .bib file with one field a line.
    """
    plain = {}
    for entry in ENTRY.finditer(bibliography):
        author, year = (
            re.search(FIELD.format(name), entry["fields"], re.MULTILINE)
            for name in ("author", "year")
        )
        plain[entry["key"]] = author_year(author[1].split(" and "), year[1])
    count, seen, found = Counter(plain.values()), Counter(), {}
    for key, label in plain.items():
        found[key] = label + (LETTERS[seen[label]] if count[label] > 1 else "")
        seen[label] += 1
    return found
