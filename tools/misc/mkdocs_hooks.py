"""What MkDocs cannot do by itself: pages from outside ``docs/``, and links to any file.

A link in a page of this repository is a path in the repository, so that it works where the files
are read. The site has the same folders, except that ``docs/`` is its top: the READMEs of the
families are added as pages, other linked files as they are.
"""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "configs/*/README.md")
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(#[^)\s]*)?(?=\))")
FENCED = re.compile(r"^( *)(```+).*?^\1\2`*$", re.DOTALL | re.MULTILINE)
ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc):(?=<code>)")
log = logging.getLogger("mkdocs.hooks.mmvitconv")


def in_site(path: str) -> str:
    """Return where a file of the repository is in the site's sources."""
    return path.removeprefix("docs/")


def in_repository(uri: str) -> str:
    """Return where a page of the site comes from, seen from the repository's top."""
    return uri if (ROOT / uri).is_file() and not (ROOT / "docs" / uri).exists() else f"docs/{uri}"


def linked_files(markdown: str, source: str) -> Iterator[str]:
    """Find the files of the repository that a page links to.

    Args:
        markdown: The page's text.
        source: Its path, from the repository's top.

    Yields:
        Their paths, from the repository's top.
    """
    for match in LINK.finditer(FENCED.sub("", markdown)):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), unquote(match[1])))
        if (ROOT / target).is_file():
            yield target


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside ``docs/`` and what they link to."""
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            uri = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, uri, content=path.read_text("utf-8")))
    for page in list(files.documentation_pages()):
        source = in_repository(page.src_uri)
        for target in linked_files(page.content_string, source):
            uri = in_site(target)
            if files.get_file_from_path(uri) is None and target != "README.md":
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn paths in the repository into paths in the site."""
    uri = page.file.src_uri
    source = in_repository(uri)

    def rewritten(match: re.Match[str]) -> str:
        anchor = match[2] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), unquote(match[1])))
        if not (ROOT / target).exists():
            log.warning(f"{source} links to {match[1]}, which does not exist")
        wanted = "index.md" if target == "README.md" else in_site(target)
        return posixpath.relpath(wanted, posixpath.dirname(uri) or ".") + anchor

    # Blocks of code stay as they are.
    parts, end = [], 0
    for block in FENCED.finditer(markdown):
        parts += [LINK.sub(rewritten, markdown[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, LINK.sub(rewritten, markdown[end:])])


def on_page_content(html: str, **_: object) -> str:
    """Remove the roles of docstrings (``:func:`` and such), which Markdown does not know."""
    return ROLE.sub("", html)
