"""What the README names exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    "path",
    sorted(
        set(re.findall(r"(?:tools|configs|requirements|docs)/[\w/]+\.(?:py|sh|md|txt)", README))
        | set(re.findall(r"\]\((?!http)([^)#]+)\)", README))
    ),
)
def test_named_files_exist(path: str):
    assert (ROOT / path).is_file()


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"^make (\w+)", README, flags=re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_config_snippet_builds():
    from mmdet.registry import MODELS

    snippet = re.search(r"```python\n(model = dict.*?)```", README, flags=re.DOTALL)[1]
    scope: dict = {}
    exec(snippet, scope)
    backbone = scope["model"]["backbone"]
    backbone.pop("_delete_")
    model = MODELS.build(backbone)
    assert list(model.out_channels) == scope["model"]["neck"]["in_channels"]
