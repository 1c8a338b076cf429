"""The one way from a name, a config or a file to a model."""

import pytest
import torch
from mmengine.config import Config

from mmvitconv.errors import CheckpointError, UserError
from mmvitconv.zoo.loading import load_model


def test_models_by_name_are_fixed_by_their_seed(tmp_path):
    state = torch.random.get_rng_state()
    first, again, other = (load_model("FCViT:tiny", seed=seed).module for seed in (1, 1, 2))
    assert torch.equal(state, torch.random.get_rng_state())
    key = "stages.0.0.token_mixer.mixes.0.dwconv.weight"
    weights = [model.state_dict()[key] for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not first.training

    file = tmp_path / "best.pth"
    torch.save({"state_dict": first.state_dict()}, file)
    loaded = load_model("FCViT:tiny", file, seed=2).module
    assert all(map(torch.equal, first.state_dict().values(), loaded.state_dict().values()))
    with pytest.raises(CheckpointError, match=r"best.pth: the checkpoint does not belong"):
        load_model("LightViT:tiny", file)


def test_models_of_timm(tmp_path):
    pytest.importorskip("timm")
    loaded = load_model("timm:resnet10t", seed=3)
    assert (loaded.shape, loaded.in_channels) == ((176, 176), 3)
    assert loaded.mean == pytest.approx((123.675, 116.28, 103.53))
    torch.save(loaded.module.state_dict(), tmp_path / "a.pth")
    load_model("timm:resnet10t", tmp_path / "a.pth", seed=4)
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="does not belong"):
        load_model("timm:resnet10t", tmp_path / "b.pth")
    with pytest.raises(UserError, match=r"timm has no model 'deit_tin'; did you mean"):
        load_model("timm:deit_tin")


def test_backbones_of_configs(tmp_path):
    path = tmp_path / "mine.py"
    backbone = {"type": "mmvitconv.LightViT", "out_indices": (2,), "out_type": "raw"}
    backbone["init_cfg"] = {"type": "Pretrained", "checkpoint": "nowhere.pth"}
    norm = {"mean": [33.0] * 3, "std": [79.0] * 3}
    model = {"type": "ImageClassifier", "data_preprocessor": norm, "backbone": backbone}
    test = [{"type": "Resize", "scale": 64}]
    Config({"default_scope": "mmpretrain", "model": model, "test_pipeline": test}).dump(path)
    loaded = load_model(str(path), part="backbone")
    assert (loaded.name, loaded.shape) == ("mine", (64, 64))
    assert (loaded.mean, loaded.std, loaded.is_rgb) == ((33.0,) * 3, (79.0,) * 3, False)
    assert loaded.module(torch.randn(1, 3, 64, 64))[0].shape == (1, 256, 2, 2)
    assert load_model(str(path), part="backbone", shape=(32, 48)).shape == (32, 48)
    path.write_text("default_scope = 'mmdet'\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"has no model\.backbone"):
        load_model(str(path), part="backbone")


def test_names_that_mean_nothing():
    with pytest.raises(UserError, match="there is no architecture 'FCViT:tinny'; did you mean"):
        load_model("FCViT:tinny")
