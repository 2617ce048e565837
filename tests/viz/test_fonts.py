"""Fonts of figures: what an installed font adds, what a reader can name, and what is said where none has a character."""

import warnings

import matplotlib.pyplot as plt
import pytest
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from bssan_lib import viz
from bssan_lib.commands.cli import main
from bssan_lib.errors import ConfigError
from bssan_lib.viz import fonts, style

SHIPPED = "STIXGeneral"  # comes with matplotlib and has letters that DejaVu Sans lacks


@pytest.fixture(autouse=True)
def plain_machine(monkeypatch):
    """No font is chosen, and only matplotlib's own are installed."""
    monkeypatch.delenv("BSSAN_FONT", raising=False)
    shipped = [one for one in font_manager.fontManager.ttflist if "mpl-data" in one.fname]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", shipped)
    fonts._families.cache_clear()
    yield
    fonts._families.cache_clear()


@pytest.fixture
def letter():
    """A character of SHIPPED that the figures' fonts lack."""
    own = FT2Font(font_manager.findfont(SHIPPED)).get_charmap()
    return chr(
        min(code for code in own if chr(code).isprintable() and code not in fonts.characters_of(("DejaVu Sans",)))
    )


def figure_of(text):
    with viz.paper_style():
        figure, axes = plt.subplots(figsize=(2, 1))
        style.label(axes, 0.5, 0.5, text)
    return figure


def test_characters_of_no_font_are_named_once_with_what_to_do(tmp_path):
    assert fonts.missing_characters(["a 中 dog", "中国 $x_1$\n"]) == "中国"
    with pytest.warns(UserWarning, match="no font here has 中国: boxes.*--font FILE.*BSSAN_FONT=FILE") as warned:
        viz.save_figure(figure_of("国中 dog"), tmp_path / "a", "png")
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        viz.save_figure(figure_of("dog é ж"), tmp_path / "b", "png")


def test_an_installed_font_fills_in_for_a_script(monkeypatch, letter):
    monkeypatch.setattr(fonts, "_SCRIPTS", letter)
    assert fonts.families()[0] == "DejaVu Sans" and SHIPPED in fonts.families()
    assert fonts.fonts_with({"中"}) == []  # a placeholder in matplotlib's font of last resort is no glyph


def test_a_font_can_be_named_by_family_or_file(monkeypatch, letter, tmp_path):
    for font in (SHIPPED, font_manager.findfont(SHIPPED)):
        monkeypatch.setenv("BSSAN_FONT", font)
        assert fonts.families()[:2] == ["DejaVu Sans", SHIPPED]
        drawn = viz.figure_bytes(figure_of(letter), "png")
    monkeypatch.delenv("BSSAN_FONT")
    with pytest.warns(UserWarning, match="no font here"):
        assert viz.figure_bytes(figure_of(letter), "png") != drawn
    (tmp_path / "font.ttf").write_text("nothing")
    for wrong in ("No Such Font", str(tmp_path / "font.ttf")):
        monkeypatch.setenv("BSSAN_FONT", wrong)
        with pytest.raises(ConfigError, match="font"):
            fonts.families()


def test_the_command_refuses_what_is_no_font(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("BSSAN_FONT", "")  # restored afterwards
    arguments = ["figure", "recalls", "m.json", "--out", str(tmp_path / "f.png"), "--font", "No Such Font"]
    assert main(arguments) == 2 and "No Such Font" in capsys.readouterr().err
