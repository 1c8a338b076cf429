"""What the tests of recipes share: configs, models without memory, rates and decays."""

from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import torch
import yaml
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, DefaultScope
from timm.data import auto_augment
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@cache
def read_metafile(folder: Path) -> dict:
    """The metafile of a folder of configs; nobody changes it."""
    return yaml.load((folder / "metafile.yml").read_text("utf-8"), yaml.CSafeLoader)


@cache
def read(path: Path) -> Config:
    """A config, read once; nobody changes it."""
    return Config.fromfile(path)


def load(name: str) -> Config:
    """The config of that name, of any family."""
    (path,) = CONFIGS.glob(f"*/{name}.py")
    return deepcopy(read(path))


def build(cfg: Config, device: str = "meta") -> nn.Module:
    """The config's model, without memory unless a device is given."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        try:
            with torch.device(device):
                return MODELS.build(cfg.model)
        except RuntimeError:  # mmpretrain's look at values, which there are none of on meta
            return MODELS.build(cfg.model).to(device)


def parameter_groups(model: nn.Module, optim_wrapper: dict, scope: str) -> dict[str, dict]:
    """The optimizer's group of each trained parameter, by the parameter's full name."""
    with DefaultScope.overwrite_default_scope(scope):
        groups = build_optim_wrapper(model, optim_wrapper).optimizer.param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)]: group for group in groups for parameter in group["params"]}


def decays(cfg: Config, model: nn.Module) -> dict[str, float]:
    """The weight decay of each parameter, all of which train at one rate."""
    groups = parameter_groups(model, cfg.optim_wrapper, cfg.default_scope)
    assert groups.keys() == dict(model.named_parameters()).keys(), "everything is trained"
    assert {group["lr"] for group in groups.values()} == {cfg.optim_wrapper.optimizer.lr}
    found = {name: group["weight_decay"] for name, group in groups.items()}
    assert set(found.values()) - {0} == {cfg.optim_wrapper.optimizer.weight_decay}
    return found


def norm_parameters(model: nn.Module) -> set[str]:
    """Names of weights and biases of all norms, those of classes of their own included."""
    return {
        f"{name}.{parameter}"
        for name, module in model.named_modules()
        if isinstance(module, (_BatchNorm, nn.LayerNorm, nn.GroupNorm))
        for parameter, _ in module.named_parameters(recurse=False)
    }


def learning_rates(cfg: Config, epoch_length: int, iterations: int | None = None) -> np.ndarray:
    """The rate of each iteration, of all epochs by default, as ParamSchedulerHook steps."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=cfg.optim_wrapper.optimizer.lr)
    given = {"optimizer": optimizer, "epoch_length": epoch_length}
    # what the runner gives as the default: the length of the run
    epochs = cfg.train_cfg.get("max_epochs", 0)
    ends = {True: epochs, False: epochs * epoch_length or cfg.train_cfg.get("max_iters")}
    schedulers = [
        PARAM_SCHEDULERS.build(
            {"end": ends[scheduler.get("by_epoch", True)], **scheduler}, default_args=given
        )
        for scheduler in cfg.param_scheduler
    ]
    rates = []
    for iteration in range(1, (iterations or ends[False]) + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            if not scheduler.by_epoch or iteration % epoch_length == 0:
                scheduler.step()
    return np.array(rates)


def check_cosine(cfg: Config, epochs: int) -> None:
    """Up from 9e-5 in 500 iterations, and by half a cosine to 1e-6, a step an epoch."""
    rates = learning_rates(cfg, epoch_length=510)
    epoch = np.arange(epochs).repeat(510)
    cosine = 1e-6 + (9e-4 - 1e-6) * (1 + np.cos(np.pi * epoch / epochs)) / 2
    expected = cosine * np.interp(np.arange(len(rates)), (0, 499), (0.1, 1))
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def check_step_schedule(cfg: Config, epochs: int, drops: tuple[int, int]) -> None:
    """COCO's: 500 iterations of warm-up from a thousandth, then a tenth after each drop."""
    epoch_length, rate = 600, cfg.optim_wrapper.optimizer.lr
    assert cfg.train_cfg.max_epochs == epochs
    rates = learning_rates(cfg, epoch_length)
    np.testing.assert_allclose(rates[:500], rate * np.linspace(0.001, 1, 500), rtol=1e-6)
    epoch = np.arange(500, epochs * epoch_length) // epoch_length
    expected = rate * 0.1 ** np.sum([epoch >= drop for drop in drops], axis=0)
    np.testing.assert_allclose(rates[500:], expected, rtol=1e-6)


def check_field_settings(cfg: Config, lr: float, weight_decay: float, length: int) -> None:
    """AdamW with these numbers for so many epochs or iterations, batch 8 x 2."""
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ("AdamW", lr, weight_decay)
    assert (cfg.train_cfg.get("max_epochs") or cfg.train_cfg.max_iters) == length
    assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size == 16


def check_training_pipeline(cfg: Config, crops: set[str]) -> None:
    """Timm's rand-m9-mstd0.5-inc1 and its erasing, after crops of 224 with that interpolation."""
    _, crop, flip, augment, erasing, _ = cfg.train_dataloader.dataset.pipeline
    found = [step for (step,) in crop.transforms] if crop.type == "RandomChoice" else [crop]
    assert {(step.type, step.scale, step.backend) for step in found} == {
        ("RandomResizedCrop", 224, "pillow")
    }
    assert {step.interpolation for step in found} == crops
    assert (flip.type, flip.prob) == ("RandomFlip", 0.5)
    reference = auto_augment.rand_augment_transform("rand-m9-mstd0.5-inc1", {})
    assert (augment.type, augment.policies) == ("RandAugment", "timm_increasing")
    assert augment.num_policies == reference.num_layers == 2
    assert {operation.magnitude for operation in reference.ops} == {augment.magnitude_level} == {9}
    assert {step.magnitude_std for step in reference.ops} == {augment.magnitude_std} == {0.5}
    assert (erasing.type, erasing.erase_prob, erasing.mode) == ("RandomErasing", 0.25, "rand")
    assert "fill_std" in erasing, "noise, not one colour"


def check_test_pipelines(cfg: Config, scale: int) -> None:
    """The centre of 224 pixels of images whose short side is ``scale``."""
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.split == "val"
        _, resize, centre, _ = loader.dataset.pipeline
        assert (resize.type, resize.scale, resize.edge) == ("ResizeEdge", scale, "short")
        assert (resize.interpolation, resize.backend) == ("bicubic", "pillow")
        assert (centre.type, centre.crop_size) == ("CenterCrop", 224)


def check_head_and_mixes(cfg: Config, mixes: list[tuple[str, float]]) -> None:
    """Label smoothing of 0.1; each kind of mixing for half of the batches, as without ``probs``."""
    loss, train_cfg = cfg.model.head.loss, cfg.model.train_cfg
    assert (loss.type, loss.label_smooth_val) == ("LabelSmoothLoss", 0.1)
    assert [(mix.type, mix.alpha) for mix in train_cfg.augments] == mixes
    assert "probs" not in train_cfg
