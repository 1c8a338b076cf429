"""What code, tests and configs say about the specifications leads to a section that is there."""

import re
from pathlib import Path

from code_blocks import ROOT

FILES = [
    path
    for folder in ("mmvitconv", "tools", "tests", "configs", "docs")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".md", ".yml")
]
REFERENCE = re.compile(r"docs/specs/(\w+)\.md((?:(?:, )?#[\w-]+)*)")
BARE = re.compile(r"\b[Ss]ections? \d")  # of what?


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.*)$", (ROOT / f"docs/specs/{page}.md").read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def references(path: Path) -> list[tuple[str, str]]:
    found = REFERENCE.findall(re.sub(r"\n\s*(?:# )?", " ", path.read_text("utf-8")))
    return [(page, anchor) for page, text in found for anchor in re.findall(r"#([\w-]+)", text)]


def test_references_resolve():
    known = {path.stem: anchors(path.stem) for path in (ROOT / "docs/specs").glob("*.md")}
    found = [(path, *reference) for path in FILES for reference in references(path)]
    assert len({path for path, *_ in found}) > 40
    wrong = [
        f"{path}: {page}#{anchor}" for path, page, anchor in found if anchor not in known[page]
    ]
    assert wrong == []


def test_no_reference_is_bare():
    code = [path for path in FILES if path.suffix == ".py" and path != Path(__file__)]
    assert [path for path in code if BARE.search(path.read_text("utf-8"))] == []
