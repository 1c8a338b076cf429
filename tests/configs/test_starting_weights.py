"""Dense configs start from published ImageNet weights where there are any, and say so."""

import pytest
from recipes import CONFIGS, load

from mmvitconv.weights.index import weights_of

DENSE = sorted(
    path.stem
    for path in CONFIGS.glob("*/*.py")
    if path.stem.endswith(("_coco", "_ade20k", "_voc", "_cityscapes"))
)
STARTS = "# Starts from: "


def test_all_are_found():
    assert len(DENSE) > 100


@pytest.mark.parametrize("name", DENSE)
def test_dense_configs(name):
    backbone = load(name).model.backbone
    architecture = f"{backbone.type.removeprefix('mmvitconv.')}:{backbone.get('arch')}"
    published = [
        entry.uri
        for entry in weights_of(architecture)
        if entry.task == "classification" and entry.loads
        if all(backbone.get(key) == value for key, value in entry.backbone.items())
    ]
    (path,) = CONFIGS.glob(f"*/{name}.py")
    (said,) = (line for line in path.read_text().splitlines() if line.startswith(STARTS))
    if published:
        assert backbone.init_cfg == {"type": "Pretrained", "checkpoint": published[0]}
        assert said.removeprefix(STARTS).startswith(f"{published[0]} ")
    else:
        assert backbone.get("init_cfg") is None
        assert said.removeprefix(STARTS).startswith("random weights")
