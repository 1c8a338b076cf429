"""Links and anchors lead somewhere, in the files and on the site, and the site builds."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from code_blocks import ROOT, pages
from families import FAMILIES

FENCED = re.compile(r"^( *)(```+).*?^\1\2`*$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
# FAMILY.py is a placeholder and no file
NAMED = re.compile(
    r"`(?:python |bash )?((?:tools|configs|requirements|docs|tests)/[\w/.-]+[a-z0-9_]\.\w+)"
)


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and MkDocs make it."""
    return re.sub(r"[ -]+", "-", re.sub(r"[^\w\- ]", "", heading.replace("`", "")).strip().lower())


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCED.sub("", page.read_text("utf-8"))


def links(page: Path) -> list[str]:
    """Links of a page to files, and the files that it names."""
    text = prose(page)
    found = [link for link in LINK.findall(text) if not re.match(r"\w+:", link)]
    named = [os.path.relpath(ROOT / name, page.parent) for name in NAMED.findall(text)]
    return sorted({*found, *named})


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links(page: Path):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page} links to {link}"
        assert target.is_relative_to(ROOT), f"{page} links to {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", prose(target), re.MULTILINE)
            assert anchor in map(slug, headings), f"{page} links to {link}"


def test_what_is_wrong_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A\n[x](missing.md) `tools/missing.py`\n```text\n[y](in_code.md)\n```\n")
    assert [Path(link).name for link in links(page)] == ["missing.py", "missing.md"]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as ``make docs`` does it."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-5000:]
    assert "WARNING" not in output
    return folder


@pytest.mark.slow
def test_the_site_has_all_pages(site):
    for page in pages():
        uri = page.relative_to(ROOT).as_posix().removeprefix("docs/")
        if uri != "README.md":  # the site's own first page is docs/index.md
            html = site / re.sub(r"README\.html$", "index.html", uri.replace(".md", ".html"))
            assert html.is_file(), html


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site):
    loads = re.compile(r'<(?:script|link|img)[^>]*?(?:src|href)="(?:https?:)?//[^"]*"')
    for html in site.rglob("*.html"):
        assert loads.findall(html.read_text("utf-8")) == [], html


@pytest.mark.slow
def test_the_api_has_all_backbones(site):
    html = (site / "api.html").read_text("utf-8")
    for name in FAMILIES:
        assert f'id="mmvitconv.models.backbones.{name}"' in html
    assert ":func:" not in html


def test_citation():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    version = re.search(r'"(.+)"', (ROOT / "mmvitconv/version.py").read_text().splitlines()[-1])[1]
    assert citation["cff-version"] == "1.2.0"
    assert citation["message"]
    assert citation["license"] == "Apache-2.0"
    assert citation["version"] == version
    assert all(set(author) & {"name", "family-names"} for author in citation["authors"])
    readme = (ROOT / "README.md").read_text("utf-8")
    assert f"version = {{{version}}}" in readme
    assert citation["title"] in readme
