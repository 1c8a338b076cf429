"""Models by name: what the configs build, without a config."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import TRANSFORMS, DefaultScope
from PIL import Image
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

import mmvitconv
from mmvitconv.engine.configuration import load_config
from mmvitconv.errors import CheckpointError, UserError
from mmvitconv.models import factory
from mmvitconv.models.factory import ImageTransform, find_entry
from mmvitconv.resources import list_configs
from mmvitconv.weights.index import read_index
from mmvitconv.zoo.loading import input_norm, load_model

CONFIGS = {
    Path(path).stem.removesuffix("_imagenet"): path
    for path in list_configs()
    if path.endswith("_imagenet.py")
    # neither baselines of mmpretrain's nor what ParC is put into
    if not Path(path).stem.startswith(("convnext", "resnet", "mobilenet", "fastparc"))
}
# The smallest of each way to make a classifier.
SMALL = ("fcvit_tiny", "lightvit_tiny", "convmixer_1024_20", "parcnet_xs", "parc_convnext_xt",
         "parc_resnet50", "parc_mobilenetv2", "deit_tiny", "dynconv_deit_tiny_lnrelu",
         "dynconv_swin_tiny_dwvit")  # fmt: skip
STRIDED = [name for name in SMALL if not name.startswith(("convmixer", "deit", "dynconv_deit"))]


def test_every_imagenet_config_has_a_name():
    names = mmvitconv.list_models()
    assert set(CONFIGS) <= set(names)
    assert len(names) == len(set(names))


def test_lists():
    assert mmvitconv.list_models("fcvit*") == [
        f"fcvit_{size}" for size in ("tiny", "s12", "s24", "s48")
    ]
    published = mmvitconv.list_models(pretrained=True)
    entries = [entry for entry in read_index().values() if entry.task == "classification"]
    assert len(published) == len([entry for entry in entries if entry.loads])
    assert {find_entry(entry.name).name for entry in entries if entry.loads} == set(published)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("FCViT-S12", "fcvit_s12"),
        ("fcvit_b12", "fcvit_s12"),
        ("swin_tiny", "dynconv_swin_tiny_softmax"),
    ],
)
def test_other_spellings(given, name):
    assert find_entry(given).name == name


@pytest.mark.parametrize("name", [name for name in SMALL if name in CONFIGS])
def test_logits_are_those_of_the_config(name):
    theirs = load_model(CONFIGS[name], device="cpu").module
    ours = mmvitconv.create_model(name).eval()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours.load_state_dict(theirs.state_dict())
    ours, theirs = ours.double(), theirs.double()
    image = torch.rand(2, 3, 64, 64).double()
    with torch.no_grad():  # random weights may make small logits
        logits = theirs(image)
        scale = logits.abs().max().item()
        torch.testing.assert_close(ours(image), logits, rtol=1e-6, atol=1e-9 * scale)


@pytest.mark.parametrize("name", CONFIGS)
def test_input_is_that_of_the_config(name):
    config = load_config(CONFIGS[name])
    cfg = find_entry(name).default_cfg()
    mean, std, is_rgb = input_norm(config)
    assert [255 * value for value in cfg["mean"]] == pytest.approx(mean, abs=1e-3)
    assert [255 * value for value in cfg["std"]] == pytest.approx(std, abs=1e-3)
    assert cfg["colours"] == ("RGB" if is_rgb else "BGR")
    steps = {step.type: step for step in config.test_dataloader.dataset.pipeline}
    resize, crop = steps["ResizeEdge"], steps["CenterCrop"].crop_size
    assert cfg["input_size"] == (3, crop, crop)
    assert (cfg["resize"], cfg["interpolation"]) == (resize.scale, resize.interpolation)
    assert cfg["antialias"] == (resize.get("backend") == "pillow")
    assert int(crop / cfg["crop_pct"]) == resize.scale  # as timm computes it


@pytest.mark.parametrize("name", ["fcvit_tiny", "lightvit_tiny", "parcnet_xs"])
@pytest.mark.parametrize("shape", [(300, 411), (97, 64)])
def test_transform_is_the_config_s_pipeline(name, shape, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    model = mmvitconv.create_model(name)
    transform = mmvitconv.create_transform(model)
    config = load_config(CONFIGS[name])
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        sample = {"img_path": str(tmp_path / "image.png")}
        for step in config.test_dataloader.dataset.pipeline[:-1]:
            sample = TRANSFORMS.build(step)(sample)
    mean, std, is_rgb = input_norm(config)
    theirs = sample["img"][..., ::-1] if is_rgb else sample["img"]  # they read BGR
    theirs = (theirs - np.float64(mean)) / np.float64(std)
    # OpenCV interpolates whole numbers with whole factors: one of 255 more or less
    tolerance = 1e-4 if transform.antialias else 1.01 / min(std)
    for image in (pixels, Image.fromarray(pixels)):
        ours = transform(image).permute(1, 2, 0).numpy()
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= tolerance


@pytest.mark.parametrize(
    ("image", "hint"),
    [
        (np.zeros((9, 9, 3)), r"uint8 of shape \(H, W, 3\) .*got float64 of \(9, 9, 3\)"),
        (np.zeros((9, 9), np.uint8), r"got uint8 of \(9, 9\)"),
        (np.zeros((0, 9, 3), np.uint8), "H, W >= 1"),
        (np.zeros((1, 9999, 3), np.uint8), "got 1 x 9999; cut it"),
        (torch.rand(3, 9, 9), r"got torch.float32 of \(3, 9, 9\)"),
        (torch.zeros(3, 9, 9, dtype=torch.uint8), r"got uint8 of \(3, 9, 9\)"),
        ("image.png", "got str"),
        (None, "got NoneType"),
        (Image.new("I;16", (9, 9)), "8 bits for each colour, got mode 'I;16'"),
        (Image.new("F", (9, 9)), "mode 'F'"),
        (Image.new("La", (9, 9)), "cannot be read"),
        (Image.new("RGB", (0, 9)), "H, W >= 1"),
    ],
)
def test_transform_refuses_other_images(image, hint):
    with pytest.raises(UserError, match=hint):
        ImageTransform(8, 8, (0.0,) * 3, (1.0,) * 3)(image)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_transform_takes_pictures_of_8_bits(mode):
    picture = Image.new(mode, (9, 7))
    transform = ImageTransform(8, 8, (0.0,) * 3, (1.0,) * 3)
    assert torch.equal(transform(picture), transform(np.asarray(picture.convert("RGB"))))


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        (nn.Linear(1, 1), "models of create_model, got Linear"),
        ("fcvit_tiny", "got str"),
        (mmvitconv.create_model("fcvit_tiny", in_chans=1), "1 channels"),
    ],
)
def test_transform_of_other_models(model, hint):
    with pytest.raises(UserError, match=hint):
        mmvitconv.create_transform(model)


@pytest.mark.parametrize("name", SMALL)
def test_features(name):
    model = mmvitconv.create_model(name, features_only=True)
    image = torch.rand(2, 3, 64, 64)
    info = model.feature_info
    maps = model(image)
    assert [x.shape[1] for x in maps] == info.channels()
    sides = [-(-64 // stride) for stride in info.reduction()]
    assert [tuple(x.shape[2:]) for x in maps] == [(side, side) for side in sides]
    assert all(model.get_submodule(module) for module in info.module_name())
    sum(x.mean() for x in maps).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", STRIDED)
@pytest.mark.parametrize("out_indices", [2, np.int64(1), (-1,), np.arange(2), range(2), (0, 2)])
def test_chosen_features(name, out_indices):
    with torch.device("meta"):
        whole = mmvitconv.create_model(name, features_only=True).feature_info
        model = mmvitconv.create_model(name, features_only=True, out_indices=out_indices)
    levels = range(len(whole))
    wanted = levels[-out_indices:] if isinstance(out_indices, (int, np.int64)) else out_indices
    assert model.feature_info.channels() == [whole.channels()[index] for index in wanted]
    assert model.feature_info.reduction() == [whole.reduction()[index] for index in wanted]


NO_CHOICE = [0, -1, 99, True, 1.0, "a", (), (99,), (-99,), (True,), (1.0,), ("a",), np.array(1)]


@pytest.mark.parametrize("name", ["fcvit_tiny", "parc_mobilenetv2", "deit_tiny"])
@pytest.mark.parametrize("out_indices", [*NO_CHOICE, (1, 0), (0, 0)])
def test_features_that_are_not_there(name, out_indices):
    with torch.device("meta"), pytest.raises(ValueError, match="out_indices"):
        mmvitconv.create_model(name, features_only=True, out_indices=out_indices)


def test_features_have_no_head(monkeypatch):
    said = []
    monkeypatch.setattr(factory, "print_log", lambda text, *args: said.append(text))
    options = {"num_classes": 3, "global_pool": "avg"}
    model = mmvitconv.create_model("fcvit_tiny", features_only=True, **options)
    assert "num_classes, global_pool of create_model: no effect" in said[0]
    assert not [name for name, _ in model.named_parameters() if "head" in name]
    mmvitconv.create_model("fcvit_tiny", features_only=True, num_classes=0)
    assert len(said) == 1


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("features_only", [True, False])
def test_modules_of_levels(name, features_only):
    """The modules are there, each behind the one before, and so are dicts in timm's forms."""
    with torch.device("meta"):
        model = mmvitconv.create_model(name, features_only=features_only)
    info = model.feature_info
    levels = info.get_dicts(idx=range(len(info))) if features_only else info
    names = [module for module, _ in model.named_modules()]
    places = [names.index(level["module"]) for level in levels]
    assert places == sorted(places)
    assert [level["index"] for level in levels] == [*range(len(levels))]
    if features_only:
        assert info.get_dicts(["num_chs"]) == [{"num_chs": n} for n in info.channels()]
        assert info.channels(np.int64(-1)) == info.channels()[-1]
        assert info.get_dicts(["reduction"], 0) == {"reduction": info.reduction(0)}


@pytest.mark.parametrize("name", SMALL)
def test_intermediates_are_the_stages_maps(name):
    """Those of the last stage become the features, whatever is between."""
    model = mmvitconv.create_model(name, num_classes=3).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        features, maps = model.forward_intermediates(image)
        assert [x.shape[1] for x in maps] == [level["num_chs"] for level in model.feature_info]
        torch.testing.assert_close(features, model.forward_features(image))
        torch.testing.assert_close(model.forward_head(features), model(image))
        some = model.forward_intermediates(
            image, indices=[0, 1], stop_early=True, intermediates_only=True
        )
        torch.testing.assert_close(some, maps[:2])
        model.reset_classifier(0)
        pooled = model.forward_head(features, pre_logits=True)
        assert pooled.shape == (1, model.head_hidden_size)
        torch.testing.assert_close(model(image), pooled)
        torch.testing.assert_close(
            mmvitconv.create_model(name, num_classes=0).eval()(image).shape, pooled.shape
        )


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("indices", NO_CHOICE)
def test_intermediates_that_are_not_there(name, indices):
    with torch.device("meta"):
        model = mmvitconv.create_model(name)
    with pytest.raises(ValueError, match="indices"):
        model.forward_intermediates(torch.rand(1, 3, 64, 64), indices)
    with pytest.raises(ValueError, match="indices"):
        model.prune_intermediate_layers(indices)
    with pytest.raises(ValueError, match="'NCHW' or 'NLC', got 'NHWC'"):
        model.forward_intermediates(torch.rand(1, 3, 64, 64), output_fmt="NHWC")


@pytest.mark.parametrize("name", SMALL)
def test_intermediates_in_other_forms(name):
    """As tokens; normed where the last norm fits; the last map instead of features."""
    model = mmvitconv.create_model(name, num_classes=3).eval()
    image, end = torch.rand(1, 3, 64, 64), model.backbone.num_stages - 1
    norm = model.backbone.norm_of(end)
    with torch.no_grad():
        _, maps = model.forward_intermediates(image)
        tokens = model.forward_intermediates(image, output_fmt="NLC", intermediates_only=True)
        torch.testing.assert_close(tokens, [x.flatten(2).transpose(1, 2) for x in maps])
        normed = model.forward_intermediates(image, norm=True, intermediates_only=True)
        for x, y in zip(maps, normed, strict=True):
            if norm is not None and x.shape[1] == maps[-1].shape[1]:
                takes_last = type(norm) is nn.LayerNorm
                x = norm(x.movedim(1, 3)).movedim(3, 1) if takes_last else norm(x)
            torch.testing.assert_close(y, x)
        last, (first,) = model.forward_intermediates(image, [0], stop_early=True)
        torch.testing.assert_close(first, maps[0])
        assert torch.equal(last, first)


@pytest.mark.parametrize("name", SMALL)
def test_pruned(name):
    """What is left gives the same maps, and no more is left than a backbone of them has."""
    model = mmvitconv.create_model(name).eval()
    image, whole = torch.rand(1, 3, 64, 64), model.backbone.num_stages
    with torch.no_grad():
        features, maps = model.forward_intermediates(image, [0, -1])
        assert model.prune_intermediate_layers(1) == [len(model.feature_info) - 1]
        torch.testing.assert_close(model(image), features)
        assert model.prune_intermediate_layers([1, 0], prune_norm=True) == [1, 0]
        assert len(model.feature_info) == 2
        rest, again = model.forward_intermediates(image, [0, -1])
        torch.testing.assert_close(again[0], maps[0])
        assert rest.shape == model.forward_features(image).shape
        assert model.num_features == model.head_hidden_size == again[1].shape[1]
        model.reset_classifier(5, "avg")
        assert model(image).shape == (1, 5)
    assert model.backbone.num_stages < whole
    left = {key for key in model.backbone.state_dict() if not key.startswith("norm")}
    backbone = type(model.backbone)(
        find_entry(name).arch,
        out_indices=model.backbone.out_indices,
        **find_entry(name).design.options,
    )
    assert left == {key for key in backbone.state_dict() if not key.startswith("norm")}
    assert model.group_matcher()("head.fc.weight") == model.backbone.get_layer_depth("x")[0]


@pytest.mark.parametrize("name", SMALL)
def test_layers(name):
    """Layers and stages grow from the image to the head; what is not decayed exists."""
    with torch.device("meta"):
        model = mmvitconv.create_model(name)
    names = dict(model.named_parameters())
    assert model.no_weight_decay() <= names.keys()
    stem = model.default_cfg["first_conv"] + ".weight"
    for coarse in (False, True):
        matcher = model.group_matcher(coarse)
        layers = {name: matcher(name) for name in names}
        assert layers[stem] == 0
        assert layers["head.fc.weight"] == max(layers.values())
        assert set(layers.values()) == set(range(max(layers.values()) + 1))


@pytest.mark.parametrize(
    "name", [name for name in SMALL if not name.startswith(("lightvit", "dynconv_swin"))]
)
def test_torchvision_takes_the_modules_of_levels(name):
    model = mmvitconv.create_model(name).eval()
    modules = [level["module"] for level in model.feature_info]
    kept = create_feature_extractor(model, modules)(torch.rand(1, 3, 32, 64))
    assert [*kept] == modules
    for out, level in zip(kept.values(), model.feature_info, strict=True):
        assert level["num_chs"] in (out.shape[1], out.shape[-1])


@pytest.fixture
def published(tmp_path, monkeypatch):
    """The cache with ``fcvit_tiny`` as of its authors, of random numbers."""
    from oracles import fcvit

    monkeypatch.setenv("MMVITCONV_HOME", str(tmp_path))
    torch.manual_seed(0)
    original = fcvit.variant("tiny", num_classes=1000).eval()
    (tmp_path / "fcvit_tiny").mkdir()
    file = tmp_path / "fcvit_tiny/fcvit_tiny.pth.tar"
    torch.save({"state_dict": original.state_dict()}, file)
    return original, file


def test_pretrained(published):
    original, file = published
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        theirs = original.double()(image.double())
        for source in (True, file, "mmvitconv://fcvit_tiny"):
            model = mmvitconv.create_model("fcvit_tiny", pretrained=source).eval()
            torch.testing.assert_close(model.double()(image.double()), theirs)


@pytest.mark.usefixtures("published")
def test_pretrained_with_other_ends():
    model = mmvitconv.create_model("fcvit_tiny", pretrained=True, num_classes=7, in_chans=1)
    pooled = mmvitconv.create_model("fcvit_tiny", pretrained=True, num_classes=0).eval()
    assert model.head.fc.out_features == 7
    grey = torch.rand(1, 1, 64, 64)
    model.reset_classifier(0)
    with torch.no_grad():  # the kernels are summed: grey images give what they gave as colours
        torch.testing.assert_close(
            model.eval().double()(grey.double()),
            pooled.double()(grey.expand(-1, 3, -1, -1).double()),
        )
    features = mmvitconv.create_model(
        "fcvit_tiny", pretrained=True, features_only=True, in_chans=5, out_indices=(1, 3)
    )
    stem = "patch_embeds.0.proj.weight"
    kernel = features.backbone.state_dict()[stem]
    theirs = pooled.backbone.state_dict()[stem].float()
    torch.testing.assert_close(kernel, theirs[:, [0, 1, 2, 0, 1]] * (3 / 5))


def test_weights_of_other_models_are_refused(published):
    _, file = published
    with pytest.raises(CheckpointError, match="does not belong to this"):
        mmvitconv.create_model("fcvit_s12", pretrained=file)
    with pytest.raises(UserError, match="no ImageNet weights are published for 'parc_resnet50'"):
        mmvitconv.create_model("parc_resnet50", pretrained=True)
    content = torch.load(file)
    content["state_dict"]["head.weight"] = content["state_dict"]["head.weight"][:9]
    content["state_dict"]["head.bias"] = content["state_dict"]["head.bias"][:9]
    torch.save(content, file)
    with pytest.raises(CheckpointError, match=r"head.fc.weight is \(9, 320\) in the file"):
        mmvitconv.create_model("fcvit_tiny", pretrained=file)


@pytest.mark.parametrize(
    ("name", "options", "hint"),
    [
        ("fcvit_tiny", {"num_clases": 3}, "no argument 'num_clases'; did you mean num_classes?"),
        ("fcvit_tiny", {"pretrained": 1}, "pretrained must be True, False, a file or an address"),
        (None, {}, "name must be one of list_models"),
        ("fcvit_s13", {}, "no model 'fcvit_s13'; did you mean fcvit_s12"),
        ("xyz", {}, "list_models"),
        ("fcvit_tiny", {"out_indices": (0,)}, "features_only=True"),
        ("fcvit_tiny", {"global_pool": "max"}, "global_pool must be 'avg'"),
        ("fcvit_tiny", {"global_pool": ""}, "with num_classes=0"),
        ("fcvit_tiny", {"num_classes": -1}, "num_classes must be"),
        ("fcvit_tiny", {"num_classes": True}, "num_classes must be"),
        ("fcvit_tiny", {"drop_path_rate": 1}, r"drop_path_rate must be a number in \[0, 1\)"),
        ("fcvit_tiny", {"drop_rate": 2}, "drop_rate must be"),
        ("fcvit_tiny", {"in_chans": 0}, "in_chans must be"),
    ],
)
def test_wrong_arguments(name, options, hint):
    with pytest.raises(ValueError, match=hint):
        mmvitconv.create_model(name, **options)
