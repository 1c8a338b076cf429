"""Our models through timm's own functions, and through what builds on timm."""

import math
import warnings

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from oracles import parc
from timm.data import create_transform, resolve_model_data_config
from timm.models import FeatureInfo, group_parameters, save_for_hf
from timm.models._features import FeatureGetterNet, feature_take_indices
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import nn

import mmvitconv
from mmvitconv.errors import UserError

with warnings.catch_warnings():
    warnings.simplefilter("error")  # timm warns where a name of its own is replaced
    import mmvitconv.timm

# The smallest of each way to make a classifier; timm has two of ConvMixer's names itself.
NAMES = ("fcvit_tiny", "lightvit_tiny", "convmixer_1024_20", "parcnet_xs",
         "parc_convnext_xt", "parc_resnet50", "parc_mobilenetv2", "deit_tiny",
         "dynconv_deit_tiny_lnrelu", "dynconv_swin_tiny_dwvit")  # fmt: skip
PYRAMIDS = [name for name in NAMES if name.startswith(("fcvit", "parc", "dynconv_swin"))]
SIZE = 64


def test_all_are_listed():
    ours = set(mmvitconv.list_models())
    clashing = {name for name in ours if timm.is_model(f"mmvitconv_{name}")}
    assert clashing == {"convmixer_768_32", "convmixer_1536_20"}
    assert {n.removeprefix("mmvitconv_") for n in timm.list_models(module="timm")} == ours
    assert timm.list_models("fcvit*", pretrained=True) == timm.list_models("fcvit*")
    assert timm.list_models("parc_*", pretrained=True) == []
    assert type(timm.create_model("convmixer_768_32")).__module__ == "timm.models.convmixer"


@pytest.mark.parametrize("name", NAMES)
def test_default_cfg(name):
    """As timm's own test: sizes, names of layers, pooling switched off."""
    model = timm.create_model(name).eval()
    cfg, entries = model.default_cfg, model.state_dict()
    assert f"{cfg['classifier']}.weight" in entries
    assert f"{cfg['first_conv']}.weight" in entries
    image = torch.rand(1, *cfg["input_size"])
    with torch.no_grad():
        features = model.forward_features(image)
        is_map = features.dim() == 4
        assert features.shape[1 if is_map else -1] == model.num_features
        if is_map:
            assert features.shape[2:] == cfg["pool_size"]
        pooled = model.forward_head(features, pre_logits=True)
        assert pooled.shape == (1, model.head_hidden_size)
        model.reset_classifier(0, "")
        torch.testing.assert_close(model(image), features)
    bare = timm.create_model(name, num_classes=0, global_pool="")
    assert bare.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("name", NAMES)
def test_backward(name):
    model = timm.create_model(
        name, num_classes=42, drop_rate=0.1, drop_path_rate=0.1, global_pool="avg", in_chans=4
    ).train()
    out = model(torch.rand(2, 4, SIZE, SIZE))
    assert out.shape == (2, 42)
    out.mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("feature_cls", [None, "getter"])
def test_features(name, feature_cls):
    model = timm.create_model(name, features_only=True, feature_cls=feature_cls).eval()
    info = model.feature_info
    with torch.no_grad():
        maps = model(torch.rand(1, 3, SIZE, SIZE))
    assert isinstance(maps, list)
    for channels, stride, x in zip(info.channels(), info.reduction(), maps, strict=True):
        assert x.shape[:2] == (1, channels)
        assert max(x.shape[2:]) <= math.ceil(SIZE / stride) + 1
        assert x.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_intermediates_and_checkpointing(name):
    model = timm.create_model(name).eval()
    info = FeatureInfo(model.feature_info, len(model.feature_info))
    image = torch.rand(1, 3, SIZE, SIZE)
    features, maps = model.forward_intermediates(image, output_fmt="NCHW")
    assert [x.shape[1] for x in maps] == info.channels()
    features.mean().backward()
    gradient = model.get_parameter(f"{model.default_cfg['first_conv']}.weight").grad.clone()
    model.zero_grad()
    model.set_grad_checkpointing()
    again, _ = model.forward_intermediates(image)
    torch.testing.assert_close(again, features)
    again.mean().backward()
    torch.testing.assert_close(
        model.get_parameter(f"{model.default_cfg['first_conv']}.weight").grad, gradient
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("indices", [None, 1, 2, [-1], [0], [1, 1], (2, 0), range(2)])
def test_choice_of_intermediates_is_timm_s(name, indices):
    with torch.device("meta"):
        model = timm.create_model(name).eval()
        image = torch.rand(1, 3, SIZE, SIZE)
    wanted, last = feature_take_indices(len(model.feature_info), indices)
    info = [model.feature_info[index] for index in sorted(set(wanted))]
    maps = model.forward_intermediates(image, indices, intermediates_only=True)
    assert [x.shape[1] for x in maps] == [level["num_chs"] for level in info]
    assert model.prune_intermediate_layers(indices) == wanted
    assert len(model.feature_info) == last + 1


@pytest.mark.parametrize("name", NAMES)
def test_timm_s_wrapper_of_features(name):
    """It prunes the classifier and asks it for maps; nothing is left that they do not need."""
    model = FeatureGetterNet(timm.create_model(name), out_indices=(0, 1)).train()
    maps = model(torch.rand(2, 3, SIZE, SIZE))
    assert [x.shape[1] for x in maps] == model.feature_info.channels()
    sum(x.mean() for x in maps).backward()
    unused = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert [key for key in unused if ".norm" not in key] == []


@pytest.mark.parametrize("name", NAMES)
def test_optimizers(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    groups = param_groups_layer_decay(model, 0.05, model.no_weight_decay(), layer_decay=0.5)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    scales = {group["lr_scale"] for group in groups}
    assert max(scales) == 1
    assert len(scales) > 2
    assert len(group_parameters(model, model.group_matcher(coarse=True))) > 2
    create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05, filter_bias_and_bn=True)


def test_timm_s_images_are_rgb(tmp_path, monkeypatch):
    """ParC-Net was trained on BGR; timm gives it RGB, and the same comes out."""
    torch.manual_seed(0)
    original = parc.parc_net("s").eval()
    for parameter in original.parameters():
        if parameter.dim() == 1 and len(parameter) == 1000:  # logits say what the image says
            nn.init.zeros_(parameter)
    (tmp_path / "parcnet_s").mkdir()
    torch.save(original.state_dict(), tmp_path / "parcnet_s/checkpoint_ema_avg.pt")
    monkeypatch.setenv("MMVITCONV_HOME", str(tmp_path))
    model = timm.create_model("parcnet_s", pretrained=True).eval()
    config = resolve_model_data_config(model)
    assert (config["mean"], config["std"]) == ((0.0,) * 3, (1.0,) * 3)
    assert create_transform(**config).transforms[0].size == 288
    image = torch.rand(1, 3, SIZE, SIZE).double()
    with torch.no_grad():
        theirs = original.double()(image.flip(1))["logits"]
        torch.testing.assert_close(model.double()(image), theirs, rtol=1e-6, atol=0)
        assert not torch.allclose(model(image.flip(1)), theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", PYRAMIDS)
@pytest.mark.parametrize("decoder", ["Unet", "FPN"])
def test_decoders_of_smp_train(name, decoder):
    model = getattr(smp, decoder)(f"tu-{name}", encoder_weights=None, classes=2, in_channels=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    image = torch.rand(2, 1, SIZE, SIZE)
    loss = model(image).square().mean()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    optimizer.step()
    assert model.eval()(image).shape == (2, 2, SIZE, SIZE)


def test_models_that_timm_has_saved(tmp_path):
    """As for Hugging Face's hub: weights and settings come back, of a head of one's own too."""
    model = timm.create_model("parcnet_xs", num_classes=3).eval()
    save_for_hf(model, tmp_path, model_args={}, safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    image = torch.rand(1, 3, SIZE, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(again(image), model(image))
    other = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=5)
    assert torch.equal(next(other.parameters()), next(model.parameters()))
    assert other.head.fc.out_features == 5
    file = tmp_path / "file.pth"
    torch.save(model.state_dict(), file)
    overlay = {"file": str(file), "num_classes": 3}
    again = timm.create_model("parcnet_xs", pretrained=True, pretrained_cfg_overlay=overlay)
    assert torch.equal(again.head.fc.weight, model.head.fc.weight)


def test_nothing_is_published():
    with pytest.raises(UserError, match="no ImageNet weights are published for 'parc_resnet50'"):
        timm.create_model("parc_resnet50", pretrained=True)
