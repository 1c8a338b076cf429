"""A teacher beside the model that is trained: a term of the loss, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn import functional as F

from mmvitconv.engine.modules import find_backbones, unwrap_model
from mmvitconv.errors import UserError, message_of
from mmvitconv.registry import HOOKS

KINDS = ("soft", "hard", "attention")
LOSS = "loss_distillation"


@HOOKS.register_module()
class DistillationHook(Hook):
    """Adds the distance to a model of timm to the losses of a classifier, detector or segmentor.

    The model stays what its config says: the teacher is no part of it, so that checkpoints,
    evaluation and export do not change. The teacher gets the images of the training step,
    augmented and mixed, with the mean, deviation and order of colours that it was trained with. It
    is frozen and in evaluation mode.

    - ``'soft'``: the Kullback-Leibler divergence of the softened class probabilities, times
      ``temperature`` squared (Hinton et al., 2015). For classifiers.
    - ``'hard'``: cross-entropy with the teacher's best class (DeiT). For classifiers.
    - ``'attention'``: between feature maps, for any model with a backbone. A map's attention is the
      mean of its squares over the channels, divided by its norm over the positions; the loss is
      the squared distance of teacher and student, summed over positions and averaged over images
      and maps (Zagoruyko and Komodakis, 2017). Each map of the student is compared with the
      teacher's of the nearest size. It has no parameters, so widths may differ.

    Args:
        teacher: Name of a model of timm, or a dict of ``model_name`` and other arguments of
            ``timm.create_model``; ``pretrained=True`` unless it says otherwise.
        kind: See above.
        weight: Factor of the added loss, positive. ``weight / (1 + weight)`` is the share of the
            teacher where papers mix both losses.
        temperature: Of ``'soft'``, positive.

    Raises:
        UserError: For an illegal argument; when training starts, if timm lacks the teacher or its
            weights cannot be had; in the first step, if it does not fit the model.

    Examples:
        >>> custom_hooks = [dict(type="mmvitconv.DistillationHook", teacher="regnety_160")]
    """

    priority = "HIGH"  # before the backbone is compiled
    keeps_state = False  # its attributes are of one process

    def __init__(
        self,
        teacher: str | Mapping[str, Any],
        kind: str = "soft",
        weight: float = 1.0,
        temperature: float = 1.0,
    ) -> None:
        if kind not in KINDS:
            raise UserError(f"kind of DistillationHook must be one of {KINDS}, got {kind!r}")
        for name, value in (("weight", weight), ("temperature", temperature)):
            if not (isinstance(value, (int, float)) and value > 0):
                raise UserError(f"{name} of DistillationHook must be positive, got {value!r}")
        self.settings = {"model_name": teacher} if isinstance(teacher, str) else dict(teacher)
        self.kind, self.weight, self.temperature = kind, weight, temperature
        self.teacher: nn.Module | None = None
        self.seen: Any = None  # what the student has computed in this step

    def before_train(self, runner: Runner) -> None:
        """Build the teacher, and add its loss to that of the model."""
        model = unwrap_model(runner.model)
        (_, backbone), *_ = find_backbones(model)
        watched = backbone if self.kind == "attention" else getattr(model, "head", None)
        if watched is None:
            raise UserError(
                f"distillation of kind {self.kind!r} compares class scores, but "
                f"{type(model).__name__} has no head of a classifier; use kind='attention'"
            )
        device = next(model.parameters()).device
        self.teacher = self.teacher or self.build_teacher().to(device)
        own_loss = model.loss

        def loss(inputs: Tensor, data_samples: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
            losses = own_loss(inputs, data_samples, *args, **kwargs)
            seen, self.seen = self.seen, None
            images = self.images_of_teacher(inputs, model.data_preprocessor)
            with torch.no_grad():
                goal = self.teacher(images)
            return {**losses, LOSS: self.weight * self.distance(seen, goal)}

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            self.seen = output

        self.handle = watched.register_forward_hook(keep)
        self.model, model.loss = model, loss

    def after_train(self, runner: Runner) -> None:
        """Leave the model as it was."""
        self.handle.remove()
        del self.model.loss, self.teacher
        self.teacher = self.seen = None

    def build_teacher(self) -> nn.Module:
        """Return the teacher, frozen; its weights are drawn or read without using random numbers.

        Raises:
            UserError: timm is not installed, has no such model, or does not get its weights.
        """
        try:
            import timm
        except ImportError as error:
            raise UserError("distillation takes its teacher from timm: pip install timm") from error
        settings = {"pretrained": True, **self.settings}
        if self.kind == "attention":
            settings["features_only"] = True
        file = settings.get("checkpoint_path")
        if file and not Path(file).is_file():
            raise UserError(f"the teacher's checkpoint_path, {file!r}, is not a file")
        try:
            with torch.random.fork_rng(devices=[]):
                teacher = timm.create_model(**settings)
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"timm cannot build the teacher {settings.get('model_name')!r}: "
                f"{message_of(error)}; give a name of timm.list_models(), and where there is no "
                "network dict(model_name=..., pretrained=False, checkpoint_path=FILE)"
            ) from error
        config = timm.data.resolve_data_config(model=teacher)
        self.mean, self.std = (torch.tensor(config[key]) for key in ("mean", "std"))
        is_fixed = teacher.pretrained_cfg.get("fixed_input_size")
        self.size = settings.get("img_size") or (config["input_size"][1:] if is_fixed else None)
        return teacher.eval().requires_grad_(False)

    def images_of_teacher(self, inputs: Tensor, preprocessor: nn.Module) -> Tensor:
        """Return images as the teacher was trained with them.

        Args:
            inputs: What the student gets, (B, 3, H, W).
            preprocessor: What has made that of images in [0, 255].
        """
        if inputs.shape[1] not in (1, 3):
            raise UserError(
                f"a teacher of timm takes images of three channels, got {inputs.shape[1]}"
            )
        images = inputs
        if hasattr(preprocessor, "mean"):
            images = images * preprocessor.std + preprocessor.mean
        # of mmpretrain, of mmengine and mmdet, of mmseg
        names = ("to_rgb", "_channel_conversion", "channel_conversion")
        if not any(getattr(preprocessor, name, False) for name in names):
            images = images.flip(1)  # files are read blue first
        mean, std = (255 * value.to(images).view(-1, 1, 1) for value in (self.mean, self.std))
        images = (images - mean) / std  # one channel becomes three
        if self.size is not None:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
        return images

    def distance(self, seen: Any, goal: Any) -> Tensor:
        """Return the loss, without its weight.

        Args:
            seen: Of the student: class scores (B, classes), or feature maps.
            goal: The same of the teacher.
        """
        if self.kind == "attention":
            return attention_distance(seen, goal)
        if not isinstance(seen, Tensor) or seen.shape != goal.shape:
            given = tuple(seen.shape) if isinstance(seen, Tensor) else type(seen).__name__
            raise UserError(
                f"the teacher scores {goal.shape[1]} classes (batch, classes: "
                f"{tuple(goal.shape)}), the student {given}; give a teacher of the same classes "
                "(num_classes and checkpoint_path in its dict), or kind='attention'"
            )
        if self.kind == "hard":
            return F.cross_entropy(seen, goal.argmax(dim=1))
        seen, goal = (F.log_softmax(scores / self.temperature, dim=1) for scores in (seen, goal))
        divergence = F.kl_div(seen, goal, reduction="batchmean", log_target=True)
        return self.temperature**2 * divergence


def attention_distance(seen: Sequence[Tensor], goal: Sequence[Tensor]) -> Tensor:
    """Return the distance of the attention of feature maps (B, C, H, W), whatever their widths.

    Args:
        seen: Of the student; each is compared with the map of the nearest size.
        goal: Of the teacher.
    """
    distances = []
    for one in seen:
        other = min(goal, key=lambda x: abs(x.shape[2] - one.shape[2]))
        energy = other.square().mean(dim=1, keepdim=True)
        if energy.shape[2:] != one.shape[2:]:
            energy = F.interpolate(energy, one.shape[2:], mode="bilinear", antialias=True)
        maps = (one.square().mean(dim=1).flatten(1), energy.flatten(1))
        mine, theirs = (F.normalize(x, dim=1) for x in maps)
        distances.append((mine - theirs).square().sum(dim=1).mean())
    return torch.stack(distances).mean()
