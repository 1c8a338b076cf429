"""Fonts for names in any script: those of this machine and of installed packages."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from matplotlib import font_manager  # comes with mmengine

__all__ = ["DEFAULT_FONT", "drawable", "fonts_for"]

DEFAULT_FONT = "DejaVu Sans"  # comes with matplotlib
PACKAGES = ("noto_cjk_sans_jp_regular", "manimgx_fonts")  # of the extra "fonts"
SUFFIXES = (".ttf", ".otf", ".ttc")


def fonts_for(text: str) -> list[str]:
    """Return the fonts that a text needs.

    Args:
        text: What is to be drawn.

    Returns:
        Names for matplotlib, which takes each letter from the first font that has it: the usual
        font, and others as far as there are any.
    """
    found, missing = [DEFAULT_FONT], _missing(frozenset(text), _default_file())
    # one font for all of them looks best
    for letters in (missing, *map(frozenset, sorted(missing))):
        font = _find(letters & missing)
        if font is not None:
            found.append(font.name)
            missing = _missing(missing, font.fname)
    return found


def drawable(text: str) -> str:
    """Return a text with their numbers in the place of letters that no font has.

    Args:
        text: What is to be drawn.

    Returns:
        The text; a warning says which scripts have no font, once for each.
    """
    absent = {letter for letter in set(text) if _find(frozenset(letter)) is None}
    absent &= _missing(frozenset(text), _default_file())
    for letter in absent:
        _say(unicodedata.name(letter, "an unknown script").split()[0])
    return "".join(f"\\u{ord(c):04x}" if c in absent else c for c in text)


def _default_file() -> str:
    return font_manager.findfont(DEFAULT_FONT)


def _missing(letters: frozenset[str], file: str) -> frozenset[str]:
    """Return the letters that a font lacks."""
    return frozenset(letter for letter in letters if ord(letter) not in _letters(file))


@cache
def _find(letters: frozenset[str]) -> font_manager.FontEntry | None:
    """Return the first font with some letters, regular ones first; None for no letters."""
    for font in _fonts() if letters else ():
        if not _missing(letters, font.fname):
            return font
    return None


@cache
def _fonts() -> list[font_manager.FontEntry]:
    """Return all fonts, those of the packages included, which matplotlib does not look for."""
    known = {font.fname for font in font_manager.fontManager.ttflist}
    for file in _packaged():
        if file not in known:
            font_manager.fontManager.addfont(file)
    fonts = sorted(font_manager.fontManager.ttflist, key=lambda f: (f.style, f.weight, f.name))
    # which has a box for each letter there is
    return [font for font in fonts if not font.name.startswith("Last Resort")]


def _packaged() -> Iterable[str]:
    """Yield the fonts of installed packages."""
    for package in PACKAGES:
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            yield from (str(p) for p in sorted(Path(folder).iterdir()) if p.suffix in SUFFIXES)


@cache
def _letters(file: str) -> frozenset[int]:
    """Return the letters that a font has; none where it cannot be read."""
    try:
        return frozenset(font_manager.get_font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


@cache
def _say(script: str) -> None:
    """Say that no font has the letters of a script."""
    warnings.warn(
        f"no font of this machine has the letters of {script}, they are drawn as their numbers: "
        "pip install 'mmvitconv[fonts]'",
        stacklevel=3,
    )
