"""Shipped configs, found by name from anywhere."""

from pathlib import Path

import pytest

from mmvitconv import resources
from mmvitconv.engine.configuration import load_config
from mmvitconv.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
NAME = "maskrcnn_fcvit_s12_coco"
FILE = ROOT / "configs" / "fcvit" / f"{NAME}.py"


def test_all_configs_are_found_by_their_own_name():
    shipped = resources.list_configs()
    assert shipped.keys() == {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.glob("configs/*/*.py")
        if path.parent.name != "_base_"
    }
    for path in shipped.values():
        assert resources.find_config(path.stem) == path


@pytest.mark.parametrize("suffix", ["", ".py"])
@pytest.mark.parametrize("folder", ["", "fcvit/", "configs/fcvit/", "./configs/fcvit/"])
def test_names_are_legal_in_any_folder(tmp_path, monkeypatch, folder, suffix):
    monkeypatch.chdir(tmp_path)
    assert Path(load_config(f"{folder}{NAME}{suffix}").filename) == FILE


def test_a_file_that_exists_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "configs" / "fcvit" / f"{NAME}.py"
    own.parent.mkdir(parents=True)
    own.write_text("mine = True\n")
    assert load_config(f"configs/fcvit/{NAME}.py").mine
    assert "mine" not in load_config(NAME)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fcvit_s12_imagenet", True),
        ("configs/fcvit/fcvit_s12_imagenet", True),
        ("anything.py", True),
        ("fcvit_s12", False),
        ("FCViT:s12", False),
    ],
)
def test_what_means_a_config(name, expected):
    assert resources.is_config(name) is expected


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("maskrcnn_fcvit_s13_coco", "configs/fcvit/maskrcnn_fcvit_s12_coco.py"),
        (f"lightvit/{NAME}", "configs/fcvit/maskrcnn_fcvit_s12_coco.py"),
        ("/nowhere/xyz.py", "mmvitconv list"),
        ("", "mmvitconv list"),
        ("configs", "mmvitconv list"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, monkeypatch, name, hint):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there is no config file") as caught:
        load_config(name)
    assert repr(name) in str(caught.value)
    assert hint in str(caught.value)


def test_an_installation_without_configs_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "mmvitconv")
    with pytest.raises(UserError, match="pip wheel"):
        resources.resource_root()
    (tmp_path / "mmvitconv" / ".mim" / "configs").mkdir(parents=True)
    (tmp_path / "mmvitconv" / ".mim" / "model-index.yml").touch()
    assert resources.resource_root() == tmp_path / "mmvitconv" / ".mim"
