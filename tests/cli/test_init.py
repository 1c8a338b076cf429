"""From a folder to predictions: init, train, test and predict in an empty folder."""

import json
from importlib.util import find_spec
from pathlib import Path

import exports
import numpy as np
import pytest
from PIL import Image
from processes import run_python

from mmvitconv.cli import main


def folders(root):
    for cls in ("cat", "dog"):
        exports.write_images(root / cls, ["a b.jpg", "ü.jpg", "c.jpg", "d.jpg"])


def deep(root):
    """COCO json, and gray images of 16 bits."""
    exports.coco(root)
    generator = np.random.default_rng(0)
    for file in [*(root / "images").rglob("*.jpg")]:
        values = generator.integers(200, 3000, (exports.HEIGHT, exports.WIDTH)).astype(np.uint16)
        Image.fromarray(values).save(file.with_suffix(".png"))
        file.unlink()


CASES = {
    "classification": folders,
    "detection": deep,
    "instance": exports.cvat,
    "semantic": lambda root: exports.masks(root, "colours"),
}
PACKAGES = {"classification": "mmpretrain", "detection": "mmdet", "semantic": "mmseg"}


@pytest.mark.slow
@pytest.mark.parametrize("task", CASES)
def test_four_commands(task, tmp_path, monkeypatch, capsys, runner_state):
    monkeypatch.chdir(tmp_path)
    CASES[task](tmp_path / "data")
    options = ["--data", "data", "--arch", "fcvit_tiny", "--from-scratch", "--device", "cpu"]
    assert main(["init", task, *options]) == 0
    loaders = [
        f"{split}_dataloader.{key}"
        for split in ("train", "val", "test")
        for key in ("num_workers=0", "persistent_workers=False")
    ]
    shorter = ["train_cfg.max_epochs=1", "train_dataloader.num_batch_per_epoch=1"]
    assert main(["train", "my_config.py", "--cfg-options", *loaders, *shorter]) == 0
    checkpoint = "work_dirs/my_config/epoch_1.pth"
    assert main(["test", "my_config.py", checkpoint, "--cfg-options", *loaders]) == 0
    if package := PACKAGES.get(task):  # whose own programs read the checkpoint, too
        tools = Path(find_spec(package).origin).parent / ".mim/tools"
        done = run_python(tools / "test.py", "my_config.py", checkpoint, "--cfg-options", *loaders,
                          folder=tmp_path)  # fmt: skip
        assert "Epoch(test)" in done.stdout + done.stderr
        longer = ["train_cfg.max_epochs=2", "train_dataloader.num_batch_per_epoch=1"]
        done = run_python(tools / "train.py", "my_config.py", "--resume", "--cfg-options", *loaders,
                          *longer, folder=tmp_path)  # fmt: skip
        assert "resumed epoch: 1" in done.stdout + done.stderr
        assert Path("work_dirs/my_config/epoch_2.pth").is_file()
    places = [str(path) for path in (tmp_path / "data").rglob("c.*") if "masks" not in path.parts]
    predict = ["predict", "my_config.py", checkpoint, *places[:1], "--out", "predicted"]
    assert main([*predict, "--device", "cpu"]) == 0
    content = json.loads((tmp_path / "predicted/predictions.json").read_text(encoding="utf-8"))
    assert not content.get("errors")
    capsys.readouterr()
    for file in tmp_path.rglob("*.pth"):  # pytest would keep them
        file.unlink()
