"""A teacher beside the student: its images, its loss, and that it leaves nothing behind."""

from types import SimpleNamespace

import mmdet.models
import mmpretrain.models
import mmseg.models
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import ImgDataPreprocessor
from mmpretrain.models import ImageClassifier
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmvitconv.engine.distillation import DistillationHook
from mmvitconv.errors import UserError
from mmvitconv.models import ConvMixer

CLASSES = 7
ARCH = {"embed_dims": 8, "depth": 2, "kernel_size": 3, "patch_size": 4}
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)  # red first
TEACHER_MEAN, TEACHER_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TEACHER = {
    "model_name": "test_resnet",
    "pretrained": False,
    "num_classes": CLASSES,
    "pretrained_cfg_overlay": {"mean": TEACHER_MEAN, "std": TEACHER_STD},
}


def make_runner(model: nn.Module) -> SimpleNamespace:
    return SimpleNamespace(model=model, logger=MMLogger.get_current_instance())


def classifier() -> ImageClassifier:
    """A student in float64."""
    torch.manual_seed(0)
    return ImageClassifier(
        backbone={"type": "mmvitconv.ConvMixer", "arch": ARCH, "out_indices": (-1,)},
        neck={"type": "mmpretrain.GlobalAveragePooling"},
        head={"type": "mmpretrain.LinearClsHead", "num_classes": CLASSES, "in_channels": 8},
        data_preprocessor={"mean": MEAN, "std": STD, "to_rgb": True, "num_classes": CLASSES},
    ).double()


@pytest.fixture
def batch() -> tuple[Tensor, list[DataSample]]:
    """Images as files have them, blue first in [0, 255], and labels."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (3, 3, 32, 48), generator=generator, dtype=torch.uint8)
    return images, [DataSample().set_gt_label(label) for label in (0, 5, 2)]


def started(model: nn.Module, **options) -> DistillationHook:
    """A hook that has begun a training, with the teacher in the student's type."""
    torch.manual_seed(2)
    hook = DistillationHook(**{"teacher": TEACHER, **options})
    hook.before_train(make_runner(model))
    hook.teacher.to(next(model.parameters()).dtype)
    return hook


def teachers_images(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(x).double().view(-1, 1, 1) for x in (TEACHER_MEAN, TEACHER_STD))
    return (images.double().flip(1) / 255 - mean) / std


def gradients(loss: Tensor, model: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_gradients_of_a_classifier_are_those_of_the_formula(kind: str, batch):
    images, samples = batch
    model = classifier().eval()  # BatchNorm: two passes of the same images
    inputs = model.data_preprocessor({"inputs": images}, training=False)["inputs"]
    scores = model(inputs)
    own = model.loss(inputs, samples)["loss"]
    hook = started(model, kind=kind, weight=3.0, temperature=2.0)
    with torch.no_grad():
        goal = hook.teacher(teachers_images(images))
    if kind == "soft":
        p = (goal / 2).softmax(1)
        q = (scores / 2).softmax(1)
        added = 4 * (p * (p.log() - q.log())).sum() / len(images)
    else:
        best = goal.argmax(1)
        added = -torch.stack([scores[i].log_softmax(0)[best[i]] for i in range(3)]).mean()
    expected = gradients(own + 3 * added, model)
    losses = model.loss(inputs, samples)
    assert losses.keys() == {"loss", "loss_distillation"}
    torch.testing.assert_close(losses["loss_distillation"], 3 * added)
    for mine, wanted in zip(gradients(sum(losses.values()), model), expected, strict=True):
        torch.testing.assert_close(mine, wanted)


def test_gradients_of_feature_maps_are_those_of_the_formula(batch):
    images, samples = batch
    model = classifier().eval()
    model.backbone = ConvMixer(ARCH, out_indices=(0, -1)).double()
    inputs = model.data_preprocessor({"inputs": images}, training=False)["inputs"]
    maps = model.backbone(inputs)
    own = model.loss(inputs, samples)["loss"]
    hook = started(model, kind="attention", teacher={**TEACHER, "out_indices": (0, 1)})
    with torch.no_grad():
        _, goal = hook.teacher(teachers_images(images))
    assert goal.shape[2:] == maps[0].shape[2:] == (8, 12), "of two maps that of the same size"
    added = 0
    for one in maps:
        for image in range(3):
            a, b = (x[image].pow(2).mean(0) for x in (one, goal))
            added = added + (a / a.norm() - b / b.norm()).pow(2).sum() / 6
    expected = gradients(own + added, model)
    for mine, wanted in zip(
        gradients(sum(model.loss(inputs, samples).values()), model), expected, strict=True
    ):
        torch.testing.assert_close(mine, wanted)


def test_maps_of_other_sizes_are_compared(batch):
    images, samples = batch
    model = classifier()
    hook = started(model, kind="attention", teacher={**TEACHER, "out_indices": (3,)})
    inputs = model.data_preprocessor({"inputs": images}, training=True)["inputs"]
    assert model.loss(inputs, samples)["loss_distillation"] > 0
    hook.after_train(make_runner(model))


@pytest.mark.parametrize(
    "preprocessor",
    [
        lambda: mmpretrain.models.ClsDataPreprocessor(MEAN, STD, to_rgb=True),
        lambda: mmpretrain.models.ClsDataPreprocessor(MEAN[::-1], STD[::-1]),
        lambda: mmpretrain.models.ClsDataPreprocessor(),
        lambda: ImgDataPreprocessor(MEAN, STD, bgr_to_rgb=True),
        lambda: mmdet.models.DetDataPreprocessor(MEAN, STD, bgr_to_rgb=True, boxtype2tensor=False),
        lambda: mmdet.models.DetDataPreprocessor(MEAN[::-1], STD[::-1], boxtype2tensor=False),
        lambda: mmseg.models.SegDataPreProcessor(MEAN, STD, bgr_to_rgb=True),
        lambda: mmseg.models.SegDataPreProcessor(),
    ],
)
def test_the_teacher_gets_its_own_mean_and_colours(preprocessor, batch):
    images, _ = batch
    hook = started(classifier())
    student = preprocessor()
    inputs = student({"inputs": list(images)}, training=False)["inputs"]
    inputs = torch.stack(inputs) if isinstance(inputs, list) else inputs  # mmseg, without samples
    # a normalisation and back in float32: values to 255, some roundings of 2^-24 each
    torch.testing.assert_close(
        hook.images_of_teacher(inputs, student).double(), teachers_images(images),
        rtol=0, atol=16 * 255 * 2**-24 / 40,
    )  # fmt: skip


def test_a_teacher_of_one_size_gets_it(batch):
    images, samples = batch
    model = classifier()
    hook = started(model, teacher={**TEACHER, "model_name": "test_vit"})
    inputs = model.data_preprocessor({"inputs": images}, training=True)["inputs"]
    assert hook.images_of_teacher(inputs, model.data_preprocessor).shape[2:] == (160, 160)
    assert model.loss(inputs, samples)["loss_distillation"].isfinite()


def test_the_teacher_is_no_part_of_the_model(batch):
    images, samples = batch
    model = classifier()
    keys = list(model.state_dict())
    state = torch.get_rng_state()
    hook = DistillationHook(TEACHER, weight=1e3)  # it outweighs the labels
    hook.before_train(make_runner(model))
    assert torch.equal(torch.get_rng_state(), state), "it draws from a generator of its own"
    hook.teacher.double()
    model.train()
    assert not hook.teacher.training
    assert not any(parameter.requires_grad for parameter in hook.teacher.parameters())
    before = {key: value.clone() for key, value in hook.teacher.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    inputs = model.data_preprocessor({"inputs": images}, training=True)["inputs"]
    seen = []
    for _ in range(12):
        losses = model.loss(inputs, samples)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        seen.append(losses["loss_distillation"].item())
    assert seen[-1] < seen[0] / 2
    for key, value in hook.teacher.state_dict().items():
        assert torch.equal(value, before[key]), "BatchNorm's statistics included"
    assert list(model.state_dict()) == keys
    hook.after_train(make_runner(model))
    assert model.loss(inputs, samples).keys() == {"loss"}
    assert model.head._forward_hooks == {}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "warm"}, "kind .*'soft'.* got 'warm'"),
        ({"weight": 0}, "weight .* positive, got 0"),
        ({"temperature": "hot"}, "temperature .* positive, got 'hot'"),
        ({"teacher": "resnet51"}, "'resnet51': Unknown model"),
        ({"teacher": {**TEACHER, "depth": [1]}}, "'test_resnet'"),
        ({"teacher": {**TEACHER, "checkpoint_path": "no.pth"}}, "'no.pth'"),
    ],
)
def test_mistakes_are_one_sentence(options, words):
    with pytest.raises(UserError, match=words):
        started(classifier(), **options)


def test_scores_of_other_classes_and_of_none(batch):
    images, samples = batch
    model = classifier()
    started(model, teacher={**TEACHER, "num_classes": 1000})
    inputs = model.data_preprocessor({"inputs": images}, training=True)["inputs"]
    with pytest.raises(UserError, match=r"teacher scores 1000 classes .* student \(3, 7\)"):
        model.loss(inputs, samples)
    model = classifier()
    model.head = None
    with pytest.raises(UserError, match="kind='attention'"):
        started(model)
    with pytest.raises(UserError, match="three channels, got 5"):
        started(classifier()).images_of_teacher(torch.rand(1, 5, 8, 8), nn.Module())
