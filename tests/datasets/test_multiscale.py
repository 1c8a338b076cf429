"""A crop size per batch: numbers of docs/specs/parc.md#6-published-recipes, ranks, epochs, workers,
the runner."""

import math
import pickle
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import DistSamplerSeedHook, Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from mmpretrain.datasets.transforms import RandomResizedCrop
from PIL import Image
from torch import nn

from mmvitconv.datasets.multiscale import (
    MultiScaleBatchSampler,
    MultiScaleRandomResizedCrop,
    SizedIndex,
)

SIZES = (160, 192, 256, 288, 320)
IMAGES = (327, 227, 128, 128, 128)
SMALL = {"batch_size": 3, "crop_sizes": (8, 16, 24), "base_size": 16}  # 12, 3 and 3 images


pytestmark = pytest.mark.usefixtures("runner_state")


def sampler_of(length: int, seed: int = 3, ranks: int = 1, rank: int = 0) -> DefaultSampler:
    """MMEngine's sampler as one of several processes has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmengine.dataset.sampler.get_dist_info", lambda: (rank, ranks))
        return DefaultSampler(range(length), seed=seed)


def sizes_of(batches: list[list[SizedIndex]]) -> list[int]:
    """The size of each batch, which must have only one."""
    sizes = [{index.crop_size for index in batch} for batch in batches]
    assert all(len(size) == 1 for size in sizes)
    return [size.pop() for size in sizes]


def test_batch_sizes_of_the_specification():
    sampler = MultiScaleBatchSampler(sampler_of(10), batch_size=128)
    assert sampler.crop_sizes == SIZES
    assert sampler.batch_sizes == IMAGES
    for size, images in zip(SIZES, IMAGES, strict=True):
        assert images == max(128, math.floor(128 * 256**2 / size**2))


@pytest.mark.parametrize("length", [1, 7, 326, 327, 328, 937, 938, 939, 5000])
def test_an_epoch(length):
    sampler = MultiScaleBatchSampler(sampler_of(length), batch_size=128)
    batches = list(sampler)
    sizes = sizes_of(batches)
    assert len(batches) == len(sampler)
    assert [len(batch) for batch in batches] == [IMAGES[SIZES.index(size)] for size in sizes]
    counts = [sizes.count(size) for size in SIZES]
    assert max(counts) - min(counts) <= 1
    # Every image, and no more repetitions than the last batch needs.
    seen = Counter(index for batch in batches for index in batch)
    assert set(seen) == set(range(length))
    assert sum(seen.values()) - length < max(IMAGES)
    assert max(seen.values()) - min(seen.values()) <= 1


def test_length_on_imagenet():
    """What the comment of the config says of 8 GPUs."""
    sampler = MultiScaleBatchSampler(sampler_of(1_281_167, ranks=8), batch_size=128)
    assert len(sampler) == 854
    assert abs(854 * sum(IMAGES) / 5 - 1_281_167 / 8) < max(IMAGES)


def test_two_ranks():
    """The same sizes in the same order, other images; an odd number of them."""
    first, second = (
        MultiScaleBatchSampler(sampler_of(4001, ranks=2, rank=rank), batch_size=128)
        for rank in (0, 1)
    )
    for epoch in (0, 5):
        first.sampler.set_epoch(epoch)
        second.sampler.set_epoch(epoch)
        batches, others = list(first), list(second)
        assert sizes_of(batches) == sizes_of(others)
        assert len(batches) == len(first) == len(second)
        images, other_images = ({i for b in some for i in b} for some in (batches, others))
        assert images | other_images == set(range(4001))
        assert len(images & other_images) <= 1  # to make 4001 even


def test_epochs_differ_and_can_be_repeated():
    def epochs(seed: int) -> list[list[list[SizedIndex]]]:
        sampler = MultiScaleBatchSampler(sampler_of(20_000, seed), batch_size=128)
        result = []
        for epoch in range(3):
            sampler.sampler.set_epoch(epoch)
            result.append(list(sampler))
        return result

    run = epochs(3)
    for one, other in pairwise(run):
        assert sizes_of(one) != sizes_of(other)
        assert one[0] != other[0]
        assert len(one) == len(other)
    resumed = MultiScaleBatchSampler(sampler_of(20_000), batch_size=128)
    resumed.sampler.set_epoch(2)
    assert list(resumed) == run[2]
    assert sizes_of(list(resumed)) == sizes_of(run[2])
    assert sizes_of(epochs(4)[0]) != sizes_of(run[0])


def test_indices_keep_their_size():
    index = SizedIndex(7, 192)
    assert index == 7
    assert [10, 11, 12, 13, 14, 15, 16, 17][index] == 17
    for other in (pickle.loads(pickle.dumps(index)), index - 2, index % 4):
        assert other.crop_size == 192
    assert (index - 2, index % 4) == (5, 3)


def test_the_crop_is_that_of_mmpretrain():
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    options = {"crop_ratio_range": (0.08, 1.0), "interpolation": "bicubic"}
    crop = MultiScaleRandomResizedCrop(**options)
    for size in (24, 40):
        np.random.seed(1)
        found = crop({"img": image.copy(), "sample_idx": SizedIndex(0, size)})
        np.random.seed(1)
        expected = RandomResizedCrop(scale=size, **options)({"img": image.copy()})
        assert found["img"].shape == (size, size, 3) == found["img_shape"]
        np.testing.assert_array_equal(found["img"], expected["img"])


@pytest.fixture
def dataset(tmp_path) -> dict:
    """Config of 40 images in the layout of ImageNet, of different shapes."""
    random = np.random.default_rng(0)
    for index in range(40):
        folder = tmp_path / "train" / f"n{index % 4:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        shape = (*random.integers(20, 60, 2), 3)
        image = random.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{index}.JPEG")
    return {
        "type": "mmpretrain.CustomDataset",
        "data_prefix": str(tmp_path / "train"),
        "pipeline": [
            {"type": "mmpretrain.LoadImageFromFile"},
            {"type": "mmvitconv.MultiScaleRandomResizedCrop"},
            {"type": "mmpretrain.PackInputs"},
        ],
    }


def loader_config(dataset: dict) -> dict:
    return {
        "batch_size": SMALL["batch_size"],
        "num_workers": 2,
        "persistent_workers": True,
        "sampler": {"type": "DefaultSampler", "shuffle": True},
        "batch_sampler": {
            "type": "mmvitconv.MultiScaleBatchSampler",
            "crop_sizes": SMALL["crop_sizes"],
            "base_size": SMALL["base_size"],
        },
        "dataset": dataset,
    }


@pytest.mark.parametrize("wrapper", [None, "RepeatDataset", "ConcatDataset"])
def test_loader_with_workers(dataset, wrapper):
    length = 40
    if wrapper == "RepeatDataset":
        dataset, length = {"type": wrapper, "dataset": dataset, "times": 2}, 80
    elif wrapper == "ConcatDataset":
        dataset, length = {"type": wrapper, "datasets": [dataset, dict(dataset)]}, 80
    loader = Runner.build_dataloader(loader_config(dataset), seed=0)
    # 18 images in three batches; 4 or 8 are left, one batch of 12.
    assert len(loader) == length // 18 * 3 + 1
    for epoch in range(2):
        loader.batch_sampler.sampler.set_epoch(epoch)
        batches = list(loader)
        expected = list(loader.batch_sampler)
        assert len(batches) == len(loader)
        for batch, indices in zip(batches, expected, strict=True):
            size = indices[0].crop_size
            assert {tuple(image.shape) for image in batch["inputs"]} == {(3, size, size)}
            assert len(batch["inputs"]) == len(indices)
            found = [sample.sample_idx for sample in batch["data_samples"]]
            assert found == [index % 40 for index in indices]


class Recorder(Hook):
    """Notes the shape of each batch by epoch, and the epoch of the sampler."""

    def __init__(self) -> None:
        self.shapes: list[list[tuple[int, ...]]] = []
        self.epochs: list[int] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict) -> None:
        if batch_idx == 0:
            self.shapes.append([])
            self.epochs.append(runner.train_dataloader.batch_sampler.sampler.epoch)
        images = data_batch["inputs"]
        assert len({image.shape for image in images}) == 1
        self.shapes[-1].append((len(images), *images[0].shape))


class Mean(BaseModel):
    """The least that a runner can train."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs: list, data_samples: list, mode: str) -> dict:
        return {"loss": self.scale * torch.stack(inputs).float().mean()}


def test_runner(dataset, tmp_path):
    recorder, epochs, length = Recorder(), 3, 7
    runner = Runner(
        model=Mean(),
        work_dir=str(tmp_path / "work"),
        train_dataloader=loader_config(dataset),
        train_cfg={"type": "EpochBasedTrainLoop", "max_epochs": epochs},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 1e-3}},
        param_scheduler={
            "type": "LinearLR",
            "start_factor": 0.5,
            "by_epoch": True,
            "begin": 0,
            "end": epochs,
            "convert_to_iter_based": True,
        },
        custom_hooks=[recorder],
        default_hooks={"checkpoint": None},
        randomness={"seed": 0},
        experiment_name="multiscale",
        default_scope="mmengine",
    )
    assert any(isinstance(hook, DistSamplerSeedHook) for hook in runner.hooks)
    runner.train()
    assert runner.iter == runner.max_iters == epochs * length
    assert runner.param_schedulers[0].end == epochs * length
    assert recorder.epochs == [0, 1, 2]
    for shapes in recorder.shapes:
        assert len(shapes) == length
        assert set(shapes) == {(12, 3, 8, 8), (3, 3, 16, 16), (3, 3, 24, 24)}
        assert shapes.count((12, 3, 8, 8)) == 3
    assert len({tuple(shapes) for shapes in recorder.shapes}) > 1


@pytest.mark.slow
def test_types_are_found_from_a_cold_interpreter():
    source = (
        "from mmengine.registry import DATA_SAMPLERS, TRANSFORMS\n"
        "TRANSFORMS.build(dict(type='mmvitconv.MultiScaleRandomResizedCrop'))\n"
        "sampler = DATA_SAMPLERS.build(dict(type='DefaultSampler', dataset=range(9), seed=0))\n"
        "DATA_SAMPLERS.build(dict(\n"
        "    type='mmvitconv.MultiScaleBatchSampler', sampler=sampler, batch_size=2))\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", source], check=True, cwd="/")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"batch_size": 1.5}, "batch_size must be a positive integer, got 1.5"),
        ({"base_size": -1}, "base_size must be a positive integer, got -1"),
        ({"crop_sizes": ()}, "crop_sizes must be one or more different positive integers, got ..$"),
        ({"crop_sizes": (16, 16)}, "different positive integers"),
        ({"crop_sizes": (16, 0)}, "got .16, 0."),
        (
            {"sampler": InfiniteSampler(range(9), seed=0)},
            "sampler must be a DefaultSampler .* got InfiniteSampler",
        ),
        ({"sampler": DefaultSampler(range(9), round_up=False, seed=0)}, "round_up=False"),
        ({"sampler": DefaultSampler([], seed=0)}, "is empty"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        MultiScaleBatchSampler(**{"sampler": sampler_of(9), **SMALL, **options})


def test_wrong_use_of_the_crop(dataset):
    with pytest.raises(ValueError, match="MultiScaleRandomResizedCrop takes no scale, got 224"):
        MultiScaleRandomResizedCrop(scale=224)
    images = DATASETS.build(dataset)
    assert images[SizedIndex(3, 8)]["inputs"].shape == (3, 8, 8)
    with pytest.raises(ValueError, match="sample_idx=3 without a crop size; load the images with"):
        images[3]
