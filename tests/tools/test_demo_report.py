import json
import math
import os
import pickle
import subprocess
import sys
from importlib import util
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image

from mmvitconv.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
TOOL = REPOSITORY / "tools" / "misc" / "demo_report.py"

CONFIG = """
_base_ = {base!r}
root = {root!r}
model = dict(
    backbone=dict(depth=18, init_cfg=None),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=8),
    rpn_head=dict(in_channels=8, feat_channels=8),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=8),
        mask_roi_extractor=dict(out_channels=8),
        bbox_head=dict(in_channels=8, fc_out_channels=8, num_classes=1),
        mask_head=dict(in_channels=8, conv_out_channels=8, num_classes=1)))
test_dataloader = dict(dataset=dict(
    data_root=root, ann_file='annotations/instances_val.json', data_prefix=dict(img='val/'),
    metainfo=dict(classes=('nucleus',)),
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(192, 192), keep_ratio=True),
        dict(type='PackDetInputs',
             meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]))
test_evaluator = dict(ann_file=root + '/annotations/instances_val.json')
"""


@pytest.fixture(scope="module")
def tool():
    """The tool as a module; what it sets for the whole process is put back."""
    scopes = dict(DefaultScope._instance_dict)
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    spec = util.spec_from_file_location("demo_report", TOOL)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"
    yield module
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(scopes)
    if before is None:
        del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
    else:
        os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before


@pytest.fixture(scope="module")
def trained(nuclei_root, tmp_path_factory, tool):
    """A config and a checkpoint of a detector (small, random weights)."""
    import mmdet
    from mmengine.registry import MODELS, init_default_scope

    folder = tmp_path_factory.mktemp("detector")
    base = Path(mmdet.__file__).parent / ".mim/configs/mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
    config = folder / "small_nuclei.py"
    config.write_text(CONFIG.format(base=str(base), root=str(nuclei_root)))
    init_default_scope("mmdet")
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(config).model)
    # As saved by the runner: more than tensors.
    meta = {"epoch": 1, "dataset_meta": {"classes": ("nucleus",)}}
    torch.save({"meta": meta, "state_dict": model.state_dict()}, folder / "weights.pth")
    return config, folder / "weights.pth"


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_evaluates_and_draws(trained, tmp_path):
    out = tmp_path / "out"
    done = run(*trained, "--out-dir", out, "--score-threshold", "0.9", "--train-seconds", "12.5")
    assert done.returncode == 0, done.stderr
    assert f"picture: {out / 'report.png'}" in done.stdout
    assert f"metrics: {out / 'metrics.json'}" in done.stdout
    content = json.loads((out / "metrics.json").read_text())
    assert 0 <= content["metrics"]["coco/segm_mAP_50"] <= 1
    assert content["images"] == 2
    assert content["seconds"]["train"] == 12.5
    assert content["versions"]["torch"] == torch.__version__
    assert content["checkpoint"] == str(trained[1])
    width, height = Image.open(out / "report.png").size
    assert width > 1000
    assert height > 700


def test_metrics_of_a_test_run(tool, trained, tmp_path, capsys):
    # MMEngine's layout: <work dir>/<time>/<time>.json, training logs elsewhere.
    for name, value in (("20260101_000000", 0.25), ("20260102_000000", 0.75)):
        path = tmp_path / "work" / name / f"{name}.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"coco/segm_mAP_50": value, "nothing": math.nan}))
        os.utime(path, (value * 100, value * 100))
    log = tmp_path / "work" / "20260102_000000" / "vis_data" / "20260102_000000.json"
    log.parent.mkdir()
    log.write_text('{"loss": 1}\n{"loss": 2}\n')
    out = tmp_path / "out"
    arguments = [*map(str, trained), "--out-dir", str(out), "--rows", "1"]
    assert tool.main([*arguments, "--metrics-from", str(tmp_path / "work")]) == 0
    assert "mask AP50 0.750" in capsys.readouterr().out
    content = json.loads((out / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert content["metrics"] == {"coco/segm_mAP_50": 0.75, "nothing": None}


def test_ground_truth_and_drawing(tool, nuclei_root, tmp_path):
    from mmdet.datasets import CocoDataset

    dataset = CocoDataset(
        data_root=str(nuclei_root),
        ann_file="annotations/instances_val.json",
        data_prefix={"img": "val/"},
        metainfo={"classes": ("nucleus",)},
    )
    info = dataset.get_data_info(0)
    path = Path(info["img_path"])
    nothing = np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), ()
    empty = tool.Detection(str(path), 192, 192, ("nucleus",), (), path, *nothing)
    truth = tool.ground_truth(info, empty)
    semantic = nuclei_root / "annotations" / "validation" / path.name
    assert np.array_equal(truth.masks.any(0), np.asarray(Image.open(semantic)) == 1)
    assert len(truth.boxes) == len(truth.masks) == len(truth.scores) == 16
    assert truth.names == ["nucleus"] * 16
    for instance in info["instances"]:
        del instance["mask"]
    assert tool.ground_truth(info, empty).masks is None
    assert tool.ground_truth({"instances": []}, empty).boxes.shape == (0, 4)
    tool.draw_report([(truth, empty)], "title", tmp_path / "out" / "a.png")
    assert (tmp_path / "out" / "a.png").is_file()


def test_headline(tool):
    both = {"coco/bbox_mAP_50": 0.5, "coco/segm_mAP_50": 0.25}
    assert tool.headline(both) == "mask AP50 0.250"
    assert tool.headline({"bbox_mAP_50": 0.5}) == "box AP50 0.500"
    for none in ({}, {"segm_mAP_50": None}, {"segm_mAP_50": math.nan}):
        assert tool.headline(none) == "no AP50 in the metrics"


def test_images_are_turned_as_for_the_detector(tool, tmp_path, monkeypatch):
    turned = Image.Exif()
    turned[0x0112] = 6
    file = tmp_path / "a.png"
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(file, exif=turned)
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    figures = []
    save = tool.Figure.savefig
    monkeypatch.setattr(
        tool.Figure, "savefig", lambda self, *a, **kw: figures.append(self) or save(self, *a, **kw)
    )
    nothing = np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), ()
    empty = tool.Detection(str(file), 40, 30, ("nucleus",), (), file, *nothing)
    tool.draw_report([(empty, empty)], "title", tmp_path / "new" / "a.png")
    shapes = [axis.images[0].get_array().shape for axis in figures[0].axes]
    assert shapes[0] == (40, 30, 3)
    assert all(height > width for height, width, _ in shapes)
    assert "matplotlib.pyplot" not in sys.modules
    assert (tmp_path / "new" / "a.png").stat().st_size > 1000


class Bomb:
    """Makes a file when a pickle with it is loaded carelessly."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_checkpoint_with_code_is_refused(tool, trained, tmp_path, capsys):
    target = tmp_path / "executed"
    torch.save({"state_dict": {}, "meta": Bomb(target)}, tmp_path / "bomb.pth")
    arguments = [str(trained[0]), str(tmp_path / "bomb.pth"), "--out-dir", str(tmp_path / "out")]
    assert tool.main(arguments) == 1
    assert "refused" in capsys.readouterr().err
    assert not target.exists()
    # The bomb is real.
    pickle.loads(pickle.dumps(Bomb(target)))
    assert target.exists()


def test_mistakes_of_the_user(tool, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, checkpoint = map(str, trained)
    out = ["--out-dir", str(tmp_path / "out")]
    cases = [
        (["absent.py", checkpoint, *out], "there is no config file 'absent.py'"),
        (["maskrcnn_fcvit_tiny_nuclei", checkpoint, *out], "the data that the config names is not"),
        ([config, "absent.pth", *out], "absent.pth"),
        ([config, checkpoint, *out, "--rows", "0"], "--rows 0"),
        ([config, checkpoint, *out, "--metrics-from", str(tmp_path)], "holds no metrics"),
    ]
    for arguments, text in cases:
        assert tool.main(arguments) == 1
        error = capsys.readouterr().err
        assert error.startswith("demo_report.py: error: ")
        assert text in error
    assert not (tmp_path / "out").exists()


def test_weights_of_another_model(tool, trained, tmp_path, capsys):
    content = torch.load(trained[1], weights_only=True)
    content["state_dict"].pop("neck.fpn_convs.0.conv.weight")
    torch.save(content, tmp_path / "other.pth")
    arguments = [str(trained[0]), str(tmp_path / "other.pth"), "--out-dir", str(tmp_path / "out")]
    assert tool.main(arguments) == 1
    error = capsys.readouterr().err
    assert "does not hold the weights of this config's model" in error
    assert "neck.fpn_convs.0.conv.weight" in error


def test_metrics_files(tool, tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("[1]")
    with pytest.raises(UserError, match="not a table of metrics"):
        tool.read_metrics(path)
    path.write_text("{")
    with pytest.raises(UserError, match="is not valid json"):
        tool.read_metrics(path)
    path.write_text('{"a": 1}')
    assert tool.read_metrics(path) == {"a": 1}
