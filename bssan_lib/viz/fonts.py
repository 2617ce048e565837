"""Which fonts the texts of a figure use, and which characters none of them has.

DejaVu Sans comes with matplotlib. It has no Chinese, Japanese, Korean or Devanagari, so each of those gets the first
installed font that has it. The environment variable BSSAN_FONT, a font's file or family, comes before those.
"""

import os
import warnings
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

from bssan_lib.errors import ConfigError

_BASE = "DejaVu Sans"
# Preferred where a machine has them; any other installed font with the script comes after.
_PREFERRED = [
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Hiragino Sans",
    "PingFang SC",
    "Yu Gothic",
    "Microsoft YaHei",
    "WenQuanYi Zen Hei",
    "IPAexGothic",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Nirmala UI",
    "Noto Emoji",
    "Segoe UI Emoji",
    "Symbola",
]
_SCRIPTS = "中あ한अবதก"  # Chinese, Japanese, Korean, Devanagari, Bengali, Tamil, Thai: a letter of each
_SHOWN = 12  # missing characters that a warning names


def families() -> list[str]:
    """The families of the figures' fonts, in order of preference. ConfigError where BSSAN_FONT is no font."""
    return list(_families(os.environ.get("BSSAN_FONT", "")))


@lru_cache(maxsize=8)
def _families(chosen: str) -> tuple[str, ...]:
    first = [_BASE] + ([_family_of(chosen)] if chosen else [])
    installed = {font.name for font in font_manager.fontManager.ttflist}
    known = tuple(dict.fromkeys(first + [name for name in _PREFERRED if name in installed]))
    lacking = {letter for letter in _SCRIPTS if ord(letter) not in characters_of(known)}
    return known + tuple(fonts_with(lacking))


def _family_of(font: str) -> str:
    """The family of a font's file, which is made known to matplotlib, or of an installed family."""
    if Path(font).is_file():
        try:
            font_manager.fontManager.addfont(font)
            return font_manager.FontProperties(fname=font).get_name()
        except (RuntimeError, OSError) as error:
            raise ConfigError(f"font {font}: no font that can be read ({error})") from None
    if font not in font_manager.get_font_names():
        raise ConfigError(f"font {font!r}: expected a file (.ttf, .otf, .ttc) or the name of an installed family")
    return font


def fonts_with(letters: set[str]) -> list[str]:
    """Families of installed fonts that have the letters, the first found for each."""
    found, left = [], set(letters)
    for entry in sorted(font_manager.fontManager.ttflist, key=lambda one: (one.style != "normal", one.name)):
        if not left:
            break
        if entry.name.startswith("Last Resort"):  # matplotlib's own, of boxes alone
            continue
        try:
            font = FT2Font(entry.fname)
        except (RuntimeError, OSError):  # a font that was removed or is broken
            continue
        has = {letter for letter in left if font.get_char_index(ord(letter))}
        if has:
            found.append(entry.name)
            left -= has
    return found


@lru_cache(maxsize=8)
def characters_of(names: tuple[str, ...]) -> frozenset[int]:
    """The code points that at least one of these families has."""
    files = [font_manager.findfont(font_manager.FontProperties(family=[name])) for name in names]
    return frozenset(code for file in files for code in FT2Font(file).get_charmap())


def missing_characters(texts: Iterable[str]) -> str:
    """The characters of some texts that no font of the figures has, each once, in order of their code."""
    known = characters_of(tuple(families()))
    return "".join(sorted({c for text in texts for c in text if c.isprintable() and ord(c) not in known}))


def warn_of_missing(figure) -> None:
    """Warns of characters in a figure that are drawn as boxes, and says how to name a font."""
    missing = missing_characters(text.get_text() for text in figure.findobj(Text) if text.get_visible())
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        warnings.warn(
            f"no font here has {missing[:_SHOWN]}{more}: boxes are drawn instead. Install a font with these characters, "
            "such as Noto Sans CJK, or name one: --font FILE for a command, BSSAN_FONT=FILE for everything",
            stacklevel=3,
        )
