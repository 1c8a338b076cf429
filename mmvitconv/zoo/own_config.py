"""A config for somebody's own images: every setting derived from them, with its reason."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmvitconv.checks.annotations import Report, check_coco_file
from mmvitconv.datasets.formats.masks import IGNORED
from mmvitconv.datasets.formats.reading import classes_in
from mmvitconv.datasets.formats.records import DataSet
from mmvitconv.datasets.formats.writing import plain_masks, write_coco, write_list, write_masks
from mmvitconv.datasets.image_files import count_pixels
from mmvitconv.datasets.statistics import colour_statistics, measure
from mmvitconv.engine.configuration import load_config
from mmvitconv.errors import UserError, shorten
from mmvitconv.resources import resource_root
from mmvitconv.zoo.config_text import Name, Why, to_text
from mmvitconv.zoo.own_model import Recipe, set_classes

__all__ = ["Plan", "plan_config"]

SCOPES = {"classification": "classification", "semantic": "segmentation"}
LONG, SHORT = 1333, 800  # of an image for a detector, as on COCO
CROP = 512  # of a segmentor
SIDE = 224  # of a classifier
OBJECT = 24.0  # pixels that the tenth percentile of objects should measure, if images allow it
MOST_ENLARGED = 4.0
PIXELS = 2**21  # of a batch, for a GPU of 16 GB
# Iterations and epochs of a training: enough for some dozens of images, and bounded for many
ITERATIONS = {"classification": 1500, "detection": 2000, "instance": 2000, "semantic": 2000}
# Without a GPU all is smaller: the shortest sensible training, which takes minutes to an hour
CPU_PIXELS, CPU_OBJECT, CPU_ITERATIONS = 2**18, 16.0, 600
EPOCHS = {
    "classification": (20, 100),
    "detection": (12, 150),
    "instance": (12, 150),
    "semantic": (12, 150),
}
# Learning rates of AdamW by batch, for weights of ImageNet and for random ones; they grow with the
# root of the batch.
RATES = {
    "classification": (64, 2e-4, 1e-3),
    "detection": (8, 1e-4, 8e-4),
    "instance": (8, 1e-4, 8e-4),
    "semantic": (8, 1e-4, 8e-4),
}
IMAGENET = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]  # mean and deviation, R, G, B
EVALUATIONS = 15  # in a training, about
ENLARGE = 1.25  # sizes in training are drawn between its reciprocal and it


@dataclass
class Plan:
    """A config and what it needs beside it.

    Attributes:
        text: Of the config.
        write: Writes what was converted; nothing where all is used as it is.
        folder: Where that goes; None where nothing is written.
        summary: What was decided, a line each.
    """

    text: str
    write: Callable[[], None]
    folder: Path | None
    summary: list[str]


def plan_config(
    data: DataSet, recipe: Recipe, title: str, out: Path, command: str, on_cpu: bool = False
) -> Plan:
    """Decide everything.

    Args:
        data: What was found.
        recipe: The model of the architecture; its weights are what training starts from.
        title: The architecture, in words.
        out: The config to write.
        command: The command line, for the head of the config.
        on_cpu: Decide for a machine without a GPU: small inputs and batches, a short training.

    Returns:
        The config's text and what else is to be written.
    """
    return _Planner(data, recipe, title, out, command, on_cpu).plan()


class _Planner:
    def __init__(
        self,
        data: DataSet,
        recipe: Recipe,
        title: str,
        out: Path,
        command: str,
        on_cpu: bool,
    ) -> None:
        self.on_cpu = on_cpu
        if on_cpu and data.task != "classification":
            recipe.make_narrow()
            data.notes.append(
                "made for a CPU: small inputs, narrow heads, a short training; for a GPU add "
                "--device gpu"
            )
        self.data, self.recipe, self.title = data, recipe, title
        self.out, self.command = out.absolute(), command
        self.facts = measure(data)
        self.folder = self.out.with_name(f"{self.out.stem}_data")
        self.writes: list[Callable[[], None]] = []
        self.found = Report()  # in what was written
        self.number = len(data.splits["train"])
        self.is_dense = data.task in ("detection", "instance")

    def plan(self) -> Plan:
        """Put the parts together."""
        self.loader = self._loader()
        size, text = getattr(self, f"_size_{self.data.task}")()
        self.batch = self._batch(math.prod(size))
        loaders = getattr(self, f"_data_{self.data.task}")(size, text)
        schedule = self._schedule()
        runtime = self._runtime()
        settings = {
            "default_scope": runtime.pop("default_scope"),
            "data_root": self._place(Path(self.data.root)),
            "classes": Why(self.data.classes, self._counts()),
            **loaders,
            **schedule,
            **runtime,
            "model": self._model(size),
        }
        writes, summary = self.writes, self._summary(size)

        def write() -> None:
            for step in writes:
                step()
            summary.extend(f"note: {text}" for text in self.found.sentences("warnings"))

        text = f"{self._head()}\n{to_text(settings)}"
        return Plan(text, write, self.folder if writes else None, summary)

    # --- words

    def _head(self) -> str:
        name = self.out.name
        counts = ", ".join(f"{split} {len(r)}" for split, r in self.data.splits.items())
        lines = [
            f"{self.title} for {self.data.task}: {self._classes()}, images: {counts}.",
            "",
            f"Made by:  {self.command}",
            f"From:     {self.data.format}" + f"; {self.data.divided}" * bool(self.data.divided),
            f"Check:    mmvitconv check {name}",
            f"Train:    mmvitconv train {name}",
            f"Test:     mmvitconv test {name} work_dirs/{self.out.stem}/best_*.pth",
            f"Predict:  mmvitconv predict {name} work_dirs/{self.out.stem}/best_*.pth IMAGES",
            *(f"Note:     {note}" for note in self.data.notes),
        ]
        if self.writes:
            lines.append(
                f"Written:  {self.folder.name}/, beside this file; your data are unchanged"
            )
        return "\n".join(f"# {line}".rstrip() for line in lines)

    def _counts(self) -> str:
        """Return how often the classes occur in training."""
        counts: Counter[str] = Counter()
        for record in self.data.splits["train"]:
            counts.update([item.name for item in record.objects] or classes_in(record))
        found = [f"{name} {counts[name]}" for name in self.data.classes]
        what = "objects" if self.data.task in ("detection", "instance") else "images"
        return f"{what} of training: {shorten(found)}"

    def _classes(self) -> str:
        number = len(self.data.classes)
        return f"{number} class{'es' * (number > 1)}"

    def _summary(self, size: tuple[int, int]) -> list[str]:
        counts = ", ".join(f"{split} {len(r)}" for split, r in self.data.splits.items())
        lines = [
            f"found: {self.data.format}; {self._classes()}: {shorten(list(self.data.classes), 8)}",
            f"images: {counts}" + f" ({self.data.divided})" * bool(self.data.divided),
            f"decided: inputs of {size[1]} x {size[0]}, batch {self.batch}, {self.epochs} epochs "
            f"({self.epochs * self.steps} iterations)",
            *(f"note: {note}" for note in self.data.notes),
        ]
        if self.recipe.weights is not None:
            lines.append(
                f"weights: {self.recipe.weights.uri}, fetched by the first training; offline, "
                f"give --weights FILE, or make the config with --from-scratch"
            )
        else:
            lines.append("weights: none; training starts from random ones, so it has to be long")
        return lines

    def _place(self, path: Path) -> str:
        """Return a path such that the config and what is below its folder can move together."""
        folder = self.out.parent
        if path == folder or folder in path.parents:
            return "{{ fileDirname }}" + "".join(f"/{p}" for p in path.relative_to(folder).parts)
        return str(path)

    # --- images

    def _loader(self) -> Any:
        """Return the step that loads an image."""
        facts = self.facts
        deep = facts.bits > 8
        many = facts.bands > 3 and not (facts.bands == 4 and facts.bits == 8 and facts.is_opaque)
        self.bands = 3
        self.is_rgb = bool(deep or many)
        if not self.is_rgb:
            step = {"type": "LoadImageFromFile"}
            if self.data.is_stored:
                step["color_type"] = Why(
                    "color_ignore_orientation", "as the annotations, which do not follow EXIF"
                )
            return step
        step: dict[str, Any] = {"type": "mmvitconv.LoadBands"}
        if facts.mixed_bits:
            step["percentiles"] = Why(
                (1, 99.8), "of each image: its numbers become 0 to 255; bit depths differ"
            )
        elif facts.bits > 8:
            low, high = math.floor(facts.low), math.ceil(facts.high)
            if facts.high - facts.low <= 2:  # floating-point numbers
                low, high = round(facts.low, 4), round(facts.high, 4)
            step["value_range"] = Why(
                (low, max(high, low + 1e-3)),
                f"the file's numbers that become 0 and 255: all but one in a thousand of these "
                f"{facts.bits}-bit images lie between",
            )
        else:
            step["value_range"] = (0, 255)
        if facts.bands == 1:
            step["bands"] = Why((0, 0, 0), "gray: the one band as three colours")
        elif many and self.recipe.weights is not None:
            step["bands"] = Why(
                (0, 1, 2),
                f"of {facts.bands} bands, as the weights know three colours; for all of them make "
                "the config with --from-scratch",
            )
        elif facts.bands != 3:
            self.bands = facts.bands
            step["bands"] = Why(tuple(range(facts.bands)), "all, in the order of the file")
        return step

    def _load(self, path: str) -> np.ndarray:
        """Load an image as the config does."""
        import cv2

        if not self.is_rgb:
            if count_pixels(path):
                raise ValueError(path)
            image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
            if image is None:
                raise ValueError(path)
            return image[..., ::-1]
        from mmvitconv.datasets.loading import LoadBands

        plain = {k: v.value if isinstance(v, Why) else v for k, v in self.loader.items()}
        plain.pop("type")
        return LoadBands(**plain).decode(Path(path).read_bytes(), path)

    def _preprocessor(self, old: Mapping[str, Any]) -> dict[str, Any]:
        """Return mean and standard deviation: what these images need to look as ImageNet did."""
        mean, std, opened = colour_statistics(self.data, self._load)
        key = "to_rgb" if self.data.task == "classification" else "bgr_to_rgb"
        is_rgb = bool(old.get(key, False))
        if self.bands == 3:
            of_weights = [np.array(old.get(name, ())) for name in ("mean", "std")]
            usual_mean, usual_std = (np.array(numbers) for numbers in IMAGENET)
            if not is_rgb:
                mean, std = mean[::-1], std[::-1]
                usual_mean, usual_std = usual_mean[::-1], usual_std[::-1]
            scaled = np.array(std) * of_weights[1] / usual_std
            moved = np.array(mean) - scaled * (usual_mean - of_weights[0]) / of_weights[1]
            mean, std = moved.round(2).tolist(), scaled.round(2).tolist()
            if self.is_rgb:
                if not is_rgb:  # the loader gives red first, the weights want blue first
                    is_rgb = True
                else:
                    is_rgb = False
        else:
            is_rgb = False
        reason = f"of these images ({opened} of {self.number} were opened), "
        reason += "so that they look to the network as ImageNet's did"
        new = {name: value for name, value in old.items() if name not in ("mean", "std", key)}
        return {
            **{name: value for name, value in new.items() if name == "type"},
            "mean": Why(mean, reason),
            "std": std,
            key: Why(is_rgb, "mmvitconv.LoadBands gives red first") if self.is_rgb else is_rgb,
            **{name: value for name, value in new.items() if name != "type"},
        }

    def _sizes(self) -> str:
        facts = self.facts
        small, large = (f"{w} x {h}" for w, h in (facts.smallest, facts.largest))
        same = f"all images are {small}"
        median = f"{facts.width} x {facts.height} in the middle"
        return same if small == large else f"images are {small} to {large}, {median}"

    def _batch(self, pixels: int) -> int:
        """Return the batch: what a GPU of 16 GB holds, and at least ten batches an epoch."""
        most = {"classification": 128, "semantic": 16}.get(self.data.task, 8)
        wanted = min((CPU_PIXELS if self.on_cpu else PIXELS) / pixels, self.number / 10, most)
        return max(2, 2 ** int(math.log2(max(wanted, 1)))) if self.number > 1 else 1

    # --- detection

    def _size_detection(self) -> tuple[tuple[int, int], str]:
        """Return height and width of the input, and why."""
        facts = self.facts
        long, short = max(facts.width, facts.height), min(facts.width, facts.height)
        most = min(LONG / long, SHORT / short)
        least = facts.objects[0]
        wanted = (CPU_OBJECT if self.on_cpu else OBJECT) / max(least, 1.0)
        factor = min(max(wanted, 1.0), MOST_ENLARGED, most)
        self.factor = factor
        before, after = (
            " / ".join(f"{side * scale:.0f}" for side in facts.objects) for scale in (1, factor)
        )
        shown = f"objects of {before} pixels (10 %, half, 90 % are smaller) become {after}"
        reason = f"{self._sizes()}; {shown}"
        if least * factor < 12:
            reason += "; such small ones are hard to find: cut the images into tiles"
            self.data.notes.append(
                f"objects are small ({least * factor:.0f} pixels in the input, tenth percentile): "
                "images cut into tiles give better results"
            )
        height, width = (max(32, round(side * factor)) for side in (facts.height, facts.width))
        return (height, width), reason

    _size_instance = _size_detection

    def _data_detection(self, size: tuple[int, int], reason: str) -> dict[str, Any]:
        masks = {"with_mask": True} if self.data.task == "instance" else {}
        annotations = {"type": "LoadAnnotations", "with_bbox": True, **masks}
        scale = max(size), min(size)
        train = [
            self.loader,
            annotations,
            {
                "type": "RandomResize",
                "scale": Why(scale, f"long and short side: {reason}"),
                "ratio_range": (1 / ENLARGE, ENLARGE),
                "keep_ratio": True,
            },
            self._flip(),
            {"type": "PackDetInputs"},
        ]
        test = [
            self.loader,
            {"type": "Resize", "scale": scale, "keep_ratio": True},
            annotations,
            {
                "type": "PackDetInputs",
                "meta_keys": ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
            },
        ]
        variables, loaders = {}, {}
        for split in self.data.splits:
            file, prefix = self._coco(split)
            variables[f"{split}_file"] = file
            dataset = {
                "type": "CocoDataset",
                "data_root": Name("data_root"),
                "metainfo": {"classes": Name("classes")},
                "ann_file": Name(f"{split}_file"),
                "data_prefix": {"img": prefix},
                "pipeline": Name("train_pipeline" if split == "train" else "test_pipeline"),
            }
            if split == "train":
                empty = sum(not record.objects for record in self.data.splits["train"])
                dataset["filter_cfg"] = Why(
                    {"filter_empty_gt": False},
                    f"images without objects ({empty} here) are kept: they teach what is none",
                )
            else:
                dataset["test_mode"] = True
            loaders[f"{split}_dataloader"] = self._dataloader(split, dataset)
        metric = ["bbox", "segm"] if masks else "bbox"
        most = {}
        if self.facts.most_objects > 100:
            most["proposal_nums"] = Why(
                (100, 300, 1000), f"an image has up to {self.facts.most_objects} objects"
            )

        def evaluator(split: str) -> Why:
            return Why(
                {
                    "type": "CocoMetric",
                    "ann_file": Name(f"{split}_file"),
                    "metric": metric,
                    **most,
                },
                f"the file of {split}_dataloader",
            )

        return self._with_test(
            {**variables, "train_pipeline": train, "test_pipeline": test, **loaders}, evaluator
        )

    _data_instance = _data_detection

    def _coco(self, split: str) -> tuple[str, str]:
        """Return the json of a split and the folder of its images; write it if need be."""
        records = self.data.splits[split]
        sources = {record.source for record in records}
        prefixes = {
            record.image.removesuffix(record.reference) if record.reference else None
            for record in records
        }
        fits = all(record.image.endswith(record.reference) for record in records)
        is_whole = not self.data.divided and len(sources) == len(prefixes) == 1
        if is_whole and None not in prefixes and fits:
            prefix, file = prefixes.pop(), Path(self.data.root, sources.pop())
            report = Report()  # what a run would refuse or leave out is written anew
            check_coco_file(report, file, self.data.classes, evaluated=True)
            is_good = not report.errors and not report.warnings
            if is_good and (not prefix or prefix.endswith("/")):
                return self._place(file), prefix
        file = self.folder / f"{split}.json"
        self.writes.append(lambda: self._write_coco(file, split))
        return self._place(file), ""

    def _write_coco(self, file: Path, split: str) -> None:
        """Write a split as COCO json, unless training would refuse it."""
        write_coco(file, self.data.splits[split], self.data.classes)
        if split == "test":  # that of a benchmark has no objects
            return
        report = Report()
        written = check_coco_file(report, file, self.data.classes, evaluated=split != "train")
        lost = Counter({why: n.total() for why, n in (written.lost if written else {}).items()})
        if lost and lost.total() == written.objects.total():
            report.error(f"no object is left of {lost.total()}: {lost.most_common(1)[0][0]}", split)
        if report.errors:
            raise UserError(
                f"{self.data.root!r}, read as {self.data.format}: {report.sentences()[0]}"
            )
        self.found.take(report)

    # --- semantic segmentation

    def _size_semantic(self) -> tuple[tuple[int, int], str]:
        """Return height and width of the crops, and why."""
        facts = self.facts
        sides = [
            min(CROP, max(64, 32 * math.ceil(side / 32))) for side in (facts.height, facts.width)
        ]
        return (sides[0], sides[1]), self._sizes()

    def _data_semantic(self, size: tuple[int, int], reason: str) -> dict[str, Any]:
        facts = self.facts
        colours = not self.is_rgb and facts.bands == 3
        train = [
            self.loader,
            {"type": "LoadAnnotations"},
            {
                "type": "RandomResize",
                "scale": Why(
                    (max(facts.width, facts.height), min(facts.width, facts.height)), reason
                ),
                "ratio_range": (0.75, 1.5),
                "keep_ratio": True,
            },
            {"type": "RandomCrop", "crop_size": size, "cat_max_ratio": 0.9},
            self._flip(),
            *([{"type": "PhotoMetricDistortion"}] if colours else []),
            {"type": "PackSegInputs"},
        ]
        test = [self.loader, {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}]
        plain = plain_masks(self.data)
        if plain is None:
            folder = self.folder / "masks"
            self.writes.append(lambda: write_masks(folder, self.data))
            images, suffix, masks, mask_suffix = "", "", self._place(folder), ".png"
            kind = f"class numbers, {IGNORED} where none is, made of {self.data.format}"
        else:
            images, suffix, masks, mask_suffix = plain
            kind = "your masks, as they are"
        variables, loaders = {}, {}
        colours = {"palette": self.data.colours} if self.data.colours else {}
        for split, records in self.data.splits.items():
            file = self.folder / f"{split}.txt"
            lines = [record.image.removeprefix(images).removesuffix(suffix) for record in records]
            self.writes.append(lambda file=file, lines=lines: write_list(file, lines))
            variables[f"{split}_file"] = self._place(file)
            dataset = {
                "type": "BaseSegDataset",
                "data_root": Name("data_root"),
                "metainfo": {"classes": Name("classes"), **colours},
                "ann_file": Name(f"{split}_file"),
                "data_prefix": Why({"img_path": images, "seg_map_path": masks}, kind),
                "img_suffix": suffix,
                "seg_map_suffix": mask_suffix,
                "pipeline": Name("train_pipeline" if split == "train" else "test_pipeline"),
            }
            loaders[f"{split}_dataloader"] = self._dataloader(split, dataset)
        return self._with_test(
            {**variables, "train_pipeline": train, "test_pipeline": test, **loaders},
            lambda split: {"type": "IoUMetric", "iou_metrics": ["mIoU"]},
        )

    # --- classification

    def _size_classification(self) -> tuple[tuple[int, int], str]:
        """Return the side of the input, twice, and why."""
        short = min(self.facts.width, self.facts.height)
        side = SIDE if short >= SIDE // 2 else max(64, 32 * math.ceil(2 * short / 32))
        return (side, side), self._sizes()

    def _data_classification(self, size: tuple[int, int], reason: str) -> dict[str, Any]:
        side = size[0]
        facts = self.facts
        names = [name.lower() for name in self.data.classes]
        is_turned = any(len(name) == 1 or "left" in name or "right" in name for name in names)
        flip = [] if is_turned else [self._flip()]
        ratio = max(facts.width, facts.height) / min(facts.width, facts.height)
        least = 0.35 if side == SIDE else 0.6
        if ratio > 1.25:
            shown: list[Any] = [
                {
                    "type": "Resize",
                    "scale": Why((side, side), "squeezed, so that nothing is cut off"),
                }
            ]
        else:
            shown = [
                {"type": "ResizeEdge", "scale": round(side / 0.9), "edge": "short"},
                {"type": "CenterCrop", "crop_size": side},
            ]
        train = [
            self.loader,
            {
                "type": "RandomResizedCrop",
                "scale": Why(side, reason),
                "crop_ratio_range": (least, 1.0),
            },
            *flip,
            {"type": "PackInputs"},
        ]
        test = [self.loader, *shown, {"type": "PackInputs"}]
        numbers = {name: number for number, name in enumerate(self.data.classes)}
        variables, loaders = {}, {}
        for split, records in self.data.splits.items():
            file = self.folder / f"{split}.txt"
            lines = [f"{record.image} {numbers[record.label]}" for record in records]
            self.writes.append(lambda file=file, lines=lines: write_list(file, lines))
            variables[f"{split}_file"] = self._place(file)
            dataset = {
                "type": "CustomDataset",
                "data_root": Name("data_root"),
                "metainfo": {"classes": Name("classes")},
                "ann_file": Why(
                    Name(f"{split}_file"), "a line an image: path below data_root, class number"
                ),
                "pipeline": Name("train_pipeline" if split == "train" else "test_pipeline"),
            }
            loaders[f"{split}_dataloader"] = self._dataloader(split, dataset)
        return self._with_test(
            {**variables, "train_pipeline": train, "test_pipeline": test, **loaders},
            lambda split: {"type": "Accuracy", "topk": self._topk()},
        )

    def _topk(self) -> tuple[int, ...]:
        return (1, 5) if len(self.data.classes) > 9 else (1,)

    # --- all

    def _flip(self) -> Any:
        return Why(
            {"type": "RandomFlip", "prob": 0.5},
            "left and right; from above (microscopes, satellites) add direction="
            '["horizontal", "vertical"] and prob=[0.25, 0.25]',
        )

    def _with_test(
        self, settings: dict[str, Any], evaluator: Callable[[str], Any]
    ) -> dict[str, Any]:
        settings["val_evaluator"] = evaluator("val")
        if "test" in self.data.splits:
            settings["test_evaluator"] = evaluator("test")
        else:
            settings["test_dataloader"] = Name("val_dataloader")
            settings["test_evaluator"] = Name("val_evaluator")
        return settings

    def _dataloader(self, split: str, dataset: dict[str, Any]) -> dict[str, Any]:
        is_train = split == "train"
        batch = self.batch if is_train or self.data.task == "classification" else 1
        loader: dict[str, Any] = {
            "batch_size": Why(
                batch,
                f"for a {'CPU' if self.on_cpu else 'GPU of 16 GB'}; if you change it, train with "
                "--auto-scale-lr",
            )
            if is_train
            else batch,
            "num_workers": 2,
            "persistent_workers": True,
            "sampler": {"type": "DefaultSampler", "shuffle": is_train},
        }
        if is_train and self.number > batch:
            loader["drop_last"] = Why(True, "norms cannot learn from a last batch of one image")
        if is_train and self.is_dense:
            loader["batch_sampler"] = Why(
                {"type": "AspectRatioBatchSampler", "drop_last": True},
                "wide images together, and tall ones",
            )
            loader.pop("drop_last", None)
            if self.facts.smallest == self.facts.largest or self.number < 10 * batch:
                loader.pop("batch_sampler")
                loader["drop_last"] = True
        return {**loader, "dataset": dataset}

    def _model(self, size: tuple[int, int]) -> dict[str, Any]:
        model = self.recipe.model
        number = len(self.data.classes)
        set_classes(model, number)
        model["data_preprocessor"] = self._preprocessor(model.get("data_preprocessor") or {})
        backbone = model["backbone"]
        if self.bands != 3:
            backbone["in_channels"] = Why(self.bands, "bands of the images")
        if backbone.get("init_cfg"):
            backbone["init_cfg"] = Why(
                backbone["init_cfg"],
                "ImageNet's; offline: train --weights FILE, or --from-scratch",
            )
        if self.data.task == "classification":
            model["head"]["topk"] = self._topk()
            model["head"].get("loss", {}).pop("num_classes", None)
            if model["head"].get("loss", {}).get("type") == "LabelSmoothLoss":
                model["head"]["loss"]["num_classes"] = number
            model["train_cfg"] = Why(None, "no mixing of images: it needs many of them")
        elif self.data.task == "semantic":
            model["data_preprocessor"]["size"] = Why(size, "of the crops")
            self._set_windows(model, size)
        else:
            self._set_anchors(model)
        first = ("type", "data_preprocessor", "backbone", "neck")
        return {key: model[key] for key in dict.fromkeys((*first, *model)) if key in model}

    def _set_windows(self, model: dict[str, Any], size: tuple[int, int]) -> None:
        test = model.setdefault("test_cfg", {})
        large = max(self.facts.largest) > 2 * CROP
        if test.get("mode") == "slide" or large:
            stride = tuple(2 * side // 3 for side in size)
            model["test_cfg"] = Why(
                {"mode": "slide", "crop_size": size, "stride": stride},
                "large images window by window" if large else "windows of the training's size",
            )

    def _set_anchors(self, model: dict[str, Any]) -> None:
        """Fit anchors to the sizes and shapes of the objects."""
        smallest = self.facts.objects[0] * self.factor
        low, high = self.facts.shapes
        ratios = [0.5, 1.0, 2.0]
        if low < 1 / 3 or high > 3:
            ratios = [0.2 if low < 0.2 else 0.25, *ratios, 5.0 if high > 5 else 4.0]
        shapes = Why(ratios, f"height by width; of 90 % of the objects it is {low:g} to {high:g}")
        head = model.get("rpn_head") or model.get("bbox_head") or {}
        anchors = head.get("anchor_generator", {})
        finest = (anchors.get("strides") or [8])[0]
        if not isinstance(finest, (int, float)):
            return
        fitting = (
            f"times strides: the smallest anchor measures %g pixels, small objects {smallest:.0f}"
        )
        if anchors.get("type") == "AnchorGenerator" and "octave_base_scale" in anchors:
            base = min(4, max(1, round(smallest / finest)))
            anchors["octave_base_scale"] = Why(base, fitting % (base * finest))
            anchors["ratios"] = shapes
        elif anchors.get("type") == "AnchorGenerator" and "scales" in anchors:
            base = min(8, max(2, round(smallest / finest)))
            anchors["scales"] = Why([base], fitting % (base * finest))
            anchors["ratios"] = shapes
        if self.facts.most_objects > 100:
            test = model.get("test_cfg", {})
            target = test.get("rcnn", test)
            target["max_per_img"] = Why(
                min(1000, 2 * self.facts.most_objects),
                f"an image has up to {self.facts.most_objects} objects",
            )

    def _schedule(self) -> dict[str, Any]:
        task = self.data.task
        self.steps = max(1, self.number // self.batch)
        least, most = EPOCHS[task]
        wanted = CPU_ITERATIONS if self.on_cpu else ITERATIONS[task]
        if self.recipe.weights is None:
            wanted, most = 2 * wanted, 2 * most
        self.epochs = min(max(math.ceil(wanted / self.steps), least), most)
        self.interval = max(1, round(self.epochs / EVALUATIONS))
        base, tuned, scratch = RATES[task]
        rate = (tuned if self.recipe.weights else scratch) * math.sqrt(self.batch / base)
        wrapper = self.recipe.optim_wrapper
        wrapper.setdefault("type", "OptimWrapper")
        # steps of gradient accumulation belong to the shipped batch
        wrapper.pop("accumulative_counts", None)
        wrapper["optimizer"] = {
            "type": "AdamW",
            "lr": Why(
                float(f"{rate:.2g}"),
                f"for a batch of {self.batch} and {'ImageNet' if self.recipe.weights else 'random'}"
                " weights; --auto-scale-lr adapts it to another batch",
            ),
            "weight_decay": 0.05,
        }
        wrapper["clip_grad"] = {"max_norm": 5.0}
        return {
            "train_cfg": {
                "type": "EpochBasedTrainLoop",
                "max_epochs": Why(
                    self.epochs,
                    f"{self.steps} iterations each; the schedule below follows this number",
                ),
                "val_interval": Why(self.interval, "epochs between evaluations"),
            },
            "val_cfg": {"type": "ValLoop"},
            "test_cfg": {"type": "TestLoop"},
            "param_scheduler": [
                Why(
                    {
                        "type": "mmvitconv.WarmupLR",
                        "start_factor": 0.01,
                        "iterations": 500,
                        "by_epoch": False,
                    },
                    "at most a tenth of the run",
                ),
                Why(
                    {
                        "type": "CosineAnnealingLR",
                        "eta_min_ratio": 0.01,
                        "by_epoch": True,
                        "convert_to_iter_based": True,
                    },
                    "ends with the run",
                ),
            ],
            "optim_wrapper": wrapper,
            "auto_scale_lr": {"enable": False, "base_batch_size": self.batch},
        }

    def _runtime(self) -> dict[str, Any]:
        """Return what is the same for all data of a task."""
        name = SCOPES.get(self.data.task, "detection")
        base = resource_root() / "configs" / "_base_" / "tasks" / f"{name}.py"
        settings = load_config(base).to_dict()
        settings.pop("vis_backends", None)
        settings.pop("resume", None)
        settings.pop("load_from", None)
        hooks = settings["default_hooks"]
        best = {
            "classification": "accuracy/top1",
            "detection": "coco/bbox_mAP",
            "instance": "coco/segm_mAP",
            "semantic": "mIoU",
        }[self.data.task]
        steps = max(1, self.number // self.batch)
        hooks["logger"] = {"type": "LoggerHook", "interval": min(50, steps)}
        hooks["checkpoint"] = {
            "type": "CheckpointHook",
            "interval": self.interval,
            "max_keep_ckpts": 2,
            "save_best": best,
        }
        settings["log_processor"] = {"type": "LogProcessor", "window_size": 50, "by_epoch": True}
        settings["randomness"] = {"seed": 0}
        return settings
