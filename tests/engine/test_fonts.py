"""Fonts for names in any script, whatever this machine has."""

import shutil
from types import SimpleNamespace

import pytest
from matplotlib import font_manager

from mmvitconv.engine import fonts
from mmvitconv.engine.pictures import write_classes


@pytest.fixture
def only(monkeypatch):
    """Lets the machine have DejaVu Sans and these fonts with these letters."""

    def choose(**letters):
        default = font_manager.findfont(fonts.DEFAULT_FONT)
        real = fonts._letters(default)
        entries = [SimpleNamespace(name=fonts.DEFAULT_FONT, fname=default)]
        entries += [SimpleNamespace(name=name, fname=name) for name in letters]
        monkeypatch.setattr(fonts, "_fonts", lambda: entries)
        table = {name: frozenset(map(ord, text)) for name, text in letters.items()}
        monkeypatch.setattr(fonts, "_letters", lambda file: {default: real, **table}[file])
        fonts._find.cache_clear()
        fonts._say.cache_clear()

    yield choose
    fonts._find.cache_clear()
    fonts._say.cache_clear()


@pytest.mark.parametrize("text", ["cat", "собака größe", "😀", "a_b^c{ $5"])
def test_the_usual_font_has_most_letters(only, text):
    only(other="猫")
    assert fonts.fonts_for(text) == [fonts.DEFAULT_FONT]
    assert fonts.drawable(text) == text


@pytest.mark.parametrize(
    ("text", "needed"),
    [("cat 猫", ["cats"]), ("猫犬", ["all"]), ("猫鳥", ["cats", "birds"]), ("鳥無", ["birds"])],
)
def test_letters_come_from_as_few_fonts_as_there_are(only, text, needed):
    only(cats="猫", all="猫犬", birds="鳥")
    assert fonts.fonts_for(text) == [fonts.DEFAULT_FONT, *needed]


def test_letters_of_no_font_are_numbers_and_said_once(only):
    only(cats="猫")
    sentence = r"letters of CJK.*pip install 'mmvitconv\[fonts\]'"
    with pytest.warns(UserWarning, match=sentence) as said:
        shown = [fonts.drawable(text) for text in ("猫犬 cat", "鳥")]
    assert shown == ["猫\\u72ac cat", "\\u9ce5"]
    assert len(said) == 1


def test_fonts_of_packages_are_found(tmp_path, monkeypatch):
    (tmp_path / "manimgx_fonts").mkdir()
    (tmp_path / "manimgx_fonts/__init__.py").touch()
    file = tmp_path / "manimgx_fonts/Some.ttf"
    shutil.copy(font_manager.findfont("DejaVu Sans"), file)
    monkeypatch.syspath_prepend(tmp_path)
    assert str(file) in fonts._packaged()


def test_a_visualizer_writes_names_of_classes(only):
    only(cats="猫")
    calls = []
    visualizer = SimpleNamespace(
        dataset_meta={"classes": ("猫", "犬", "cat"), "palette": None},
        draw_texts=lambda texts, *args, **kwargs: calls.append((texts, args, kwargs)),
    )
    with pytest.warns(UserWarning, match="letters of CJK"):
        write_classes(visualizer)
    assert visualizer.dataset_meta == {"classes": ("猫", "\\u72ac", "cat"), "palette": None}
    visualizer.draw_texts("猫: 0.5", 1, colors="w")
    visualizer.draw_texts(["a", "b"], font_families="serif")
    names = [fonts.DEFAULT_FONT, "cats"]
    assert calls == [
        ("猫: 0.5", (1,), {"font_families": [names], "colors": "w"}),
        (["a", "b"], (), {"font_families": "serif"}),
    ]
    visualizer.dataset_meta = {"classes": ["cat"]}
    draw = visualizer.draw_texts
    write_classes(visualizer)
    assert visualizer.draw_texts is draw
