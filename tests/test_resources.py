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
    ("name", "ours"),
    [
        ("mask-rcnn_fcvit-s12_fpn_1x_coco", "maskrcnn_fcvit_s12_coco"),
        ("mask-rcnn_lightvit-tiny_fpn_ms-3x_coco", "maskrcnn_lightvit_tiny_3x_coco"),
        ("cascade-mask-rcnn_parc-convnext-xt_fpn_3x_coco.py",
         "cascade_maskrcnn_parc_convnext_xt_3x_coco"),
        ("retinanet_fcvit-tiny_fpn_1x_coco", "retinanet_fcvit_tiny_coco"),
        ("fcvit-s12_8xb128_in1k", "fcvit_s12_imagenet"),
        ("convmixer-768-32_10xb64_in1k", "convmixer_768_32_imagenet"),
        ("upernet_fcvit-s12_4xb4-160k_ade20k-512x512", "upernet_fcvit_s12_ade20k"),
        ("fpn_fcvit-s12_4xb4-80k_ade20k-512x512", "fpn_fcvit_s12_ade20k"),
        ("deeplabv3_parcnet-s_4xb4-20k_voc12aug-512x512", "deeplabv3_parcnet_s_voc"),
    ],
)  # fmt: skip
def test_names_as_openmmlab_writes_them(name, ours):
    assert resources.is_config(name)
    assert resources.find_config(name).stem == ours


def test_no_two_configs_have_one_name_in_openmmlab():
    names = [resources._plain(Path(key).stem) for key in resources.list_configs()]
    assert len(set(names)) == len(names)


def test_a_name_of_several_is_asked_back(monkeypatch):
    several = {f"configs/a/{name}.py": Path(name) for name in ("net_s_1x_coco", "net_s_coco")}
    monkeypatch.setattr(resources, "list_configs", lambda: several)
    with pytest.raises(UserError, match=r"did you mean configs/a/net_s_1x_coco\.py or configs/a"):
        resources.find_config("net-s_coco2017")


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
        ("mask-rcnn_fcvit-s13_fpn_1x_coco", "configs/fcvit/maskrcnn_fcvit_s12_coco.py"),
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
