"""Small copies of the real data, and every way in which the tests break them."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

METAINFO = {
    "detection": {"classes": ("nucleus",)},
    "segmentation": {"classes": ("background", "nucleus"), "palette": [(0, 0, 0), (9, 9, 9)]},
}
SCOPES = {"detection": "mmdet", "segmentation": "mmseg", "classification": "mmpretrain"}
PACK = {"detection": "PackDetInputs", "segmentation": "PackSegInputs"}
TRAIN, VAL = 8, 2


# the settings of a run that trains a small classifier of two classes
CLASSIFIER = {
    "default_scope": "mmpretrain",
    "model": {
        "type": "ImageClassifier",
        "backbone": {"type": "ResNet", "depth": 18, "stem_channels": 8, "base_channels": 8},
        "neck": {"type": "GlobalAveragePooling"},
        "head": {
            "type": "LinearClsHead",
            "num_classes": 2,
            "in_channels": 64,
            "topk": (1,),
            "loss": {"type": "CrossEntropyLoss"},
        },
    },
    "data_preprocessor": {"num_classes": 2, "mean": [127.0] * 3, "std": [64.0] * 3},
    "train_cfg": {"by_epoch": True, "max_epochs": 1},
    "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9}},
}


def build(task: str, source: Path, root: Path) -> Path:
    """Copy 8 training and 2 validation samples (classification: of each of two digits)."""
    for split, count in (("train", TRAIN), ("val", VAL)):
        if task == "classification":
            for digit in "01":
                (root / split / digit).mkdir(parents=True)
                for path in sorted((source / split / digit).iterdir())[:count]:
                    # JPEG in colours, as in the real data sets
                    copy = root / split / digit / f"{path.stem}.jpg"
                    Image.open(path).convert("RGB").save(copy)
        elif task == "segmentation":
            name = {"train": "training", "val": "validation"}[split]
            for folder in ("images", "annotations"):
                (root / folder / name).mkdir(parents=True)
                for path in sorted((source / folder / name).iterdir())[:count]:
                    shutil.copy(path, root / folder / name)
        else:
            content = json.loads((source / "annotations" / f"instances_{split}.json").read_text())
            content["images"] = content["images"][:count]
            kept = {image["id"] for image in content["images"]}
            content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
            (root / split).mkdir(parents=True)
            for image in content["images"]:
                shutil.copy(source / split / image["file_name"], root / split)
            (root / "annotations").mkdir(exist_ok=True)
            json_of(root, split).write_text(json.dumps(content))
    return root


def json_of(root: Path, split: str = "train") -> Path:
    return root / "annotations" / f"instances_{split}.json"


def dataset(task: str, root: Path, split: str = "train", **changes: Any) -> dict[str, Any]:
    """Config of one of the datasets."""
    scope = SCOPES[task]
    pipeline: list[dict] = [{"type": "LoadImageFromFile"}]
    # serialising ends with a garbage collection, which takes a second late in a test session
    settings: dict[str, Any] = {"data_root": str(root), "serialize_data": False}
    if task == "classification":
        settings.update(type="mmpretrain.CustomDataset", data_prefix=split)
        pipeline.append({"type": "mmpretrain.PackInputs"})
    elif task == "segmentation":
        name = {"train": "training", "val": "validation"}[split]
        prefix = {"img_path": f"images/{name}", "seg_map_path": f"annotations/{name}"}
        settings.update(
            type="mmseg.BaseSegDataset", img_suffix=".png", data_prefix=prefix,
            metainfo=METAINFO[task],
        )  # fmt: skip
        pipeline += [{"type": "mmseg.LoadAnnotations"}]
    else:
        settings.update(
            type="mmdet.CocoDataset", ann_file=f"annotations/instances_{split}.json",
            data_prefix={"img": f"{split}/"}, metainfo=METAINFO[task], test_mode=split == "val",
        )  # fmt: skip
        pipeline += [{"type": "mmdet.LoadAnnotations", "with_bbox": True, "with_mask": True}]
    if task in PACK:
        if split == "train":
            pipeline.append({"type": "mmdet.RandomFlip" if task == "detection" else
                             "mmseg.RandomFlip", "prob": 0.5})  # fmt: skip
        pipeline.append({"type": f"{scope}.{PACK[task]}"})
    return {**settings, "pipeline": pipeline, **changes}


def loaders(task: str, root: Path, workers: int = 0) -> dict[str, Any]:
    """The part of a config that names the data."""
    shared = {"batch_size": 1, "num_workers": workers}
    return {
        "default_scope": SCOPES[task],
        "train_dataloader": {
            **shared,
            "sampler": {"type": "DefaultSampler", "shuffle": True},
            "dataset": dataset(task, root),
        },
        "val_dataloader": {
            **shared,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "dataset": dataset(task, root, "val"),
        },
    }


def images(task: str, root: Path, split: str = "train") -> list[Path]:
    """The images of a split."""
    if task == "segmentation":
        folder = root / "images" / {"train": "training", "val": "validation"}[split]
    else:
        folder = root / split
    return sorted(path for path in folder.rglob("*") if path.is_file())


def label_map(root: Path, image: Path) -> Path:
    """The label map of an image."""
    return root / "annotations" / image.parent.name / image.name


def save(path: Path, image: Image.Image, **options: Any) -> None:
    """Write an image as JPEG, whatever the name says: decoders look at the content."""
    image.save(path, format="JPEG", **options)


def corrupt(path: Path) -> None:
    """Damage the compressed data of a JPEG that decodes nevertheless."""
    save(path, Image.effect_noise((96, 96), 80).convert("RGB"), quality=90)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 600] = bytes(600)
    path.write_bytes(bytes(content))


def turned(path: Path, orientation: int = 6) -> None:
    """Rewrite an image as a camera would: upright (6) of half the height, or upside down (3)."""
    image = Image.open(path).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    height = image.height // 2 if orientation == 6 else image.height
    image.crop((0, 0, image.width, height)).save(path, format="JPEG", exif=exif)


def cut(path: Path, keep: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def jpeg_cut(path: Path) -> None:
    save(path, Image.open(path).convert("RGB"))
    cut(path)


def transparent(path: Path) -> None:
    image = Image.open(path).convert("RGB")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(path)


def sixteen(path: Path) -> None:
    values = np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 257
    Image.fromarray(values).save(path, format="PNG")


def change_map(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path, Path], Path]:
    """Break the label map of an image."""

    def apply(root: Path, image: Path) -> Path:
        path = label_map(root, image)
        values = change(np.asarray(Image.open(path)).copy())
        Image.fromarray(values).save(path)
        return path

    return apply


def map_file(change: Callable[[Path], object]) -> Callable[[Path, Path], Path]:
    """Break the file of the label map of an image."""

    def apply(root: Path, image: Path) -> Path:
        change(label_map(root, image))
        return label_map(root, image)

    return apply


def put(value: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values = values.astype(np.uint16) if value > 255 else values
        values[0, 0] = value
        return values

    return change


def change_json(
    change: Callable[[dict, dict, dict], object],
) -> Callable[[Path, Path], Path]:
    """Break the annotations of an image: gets the content, its image and its first object."""

    def apply(root: Path, image: Path) -> Path:
        path = json_of(root, image.parent.name)
        content = json.loads(path.read_text())
        entry = next(item for item in content["images"] if item["file_name"] == image.name)
        first = next(item for item in content["annotations"] if item["image_id"] == entry["id"])
        change(content, entry, first)
        path.write_text(json.dumps(content))
        return image

    return apply


def on_file(change: Callable[[Path], object]) -> Callable[[Path, Path], Path]:
    """Break the image file."""

    def apply(root: Path, image: Path) -> Path:
        change(image)
        return image

    return apply


class Defect(NamedTuple):
    """One way to break a data set.

    Attributes:
        name: For the test's name.
        tasks: Where it applies.
        apply: Breaks one sample; gets the root and the image, returns the file to be named.
        kind: Words of the kind that the check reports.
        run: What a run does: 'left out', 'stops', 'at start' (it is named when the run begins),
            'converted' or 'used' (it trains, and nothing is said).
        is_error: Whether the check ends with 1.
    """

    name: str
    tasks: tuple[str, ...]
    apply: Callable[[Path, Path], Path]
    kind: str
    run: str
    is_error: bool = True


ALL = ("detection", "segmentation", "classification")
DET, SEG, CLS = (("detection",), ("segmentation",), ("classification",))
BOX = "annotation"
DEFECTS = (
    Defect("missing", DET, on_file(Path.unlink), "file is missing", "left out"),
    Defect("empty", ALL, on_file(lambda p: p.write_bytes(b"")), "file is empty", "left out"),
    Defect("text", ALL, on_file(lambda p: p.write_text("no image")), "cannot be decoded",
           "left out"),
    Defect("cut png", DET + SEG, on_file(cut), "cannot be decoded", "left out"),
    Defect("cut jpeg", ALL, on_file(jpeg_cut), "cannot be decoded", "left out"),
    Defect("corrupt jpeg", CLS, on_file(corrupt), "file is damaged", "used"),
    Defect("folder", DET, on_file(lambda p: (p.unlink(), p.mkdir())), "file is missing",
           "left out"),
    Defect("grey", ALL, on_file(lambda p: Image.open(p).convert("L").save(p)), "grayscale",
           "converted", False),
    Defect("cmyk", ALL, on_file(lambda p: save(p, Image.open(p).convert("CMYK"))), "CMYK",
           "converted", False),
    Defect("palette", DET + SEG, on_file(lambda p: Image.open(p).convert("P").save(p)), "palette",
           "converted", False),
    Defect("alpha", DET + SEG, on_file(transparent), "transparency", "converted", False),
    Defect("16 bit", ALL, on_file(sixteen), "16-bit", "converted", False),
    Defect("turned", DET, on_file(turned), "another size", "left out"),
    Defect("turned under its map", SEG,
           lambda root, image: (turned(image), label_map(root, image))[1], "another size",
           "left out"),
    Defect("turned picture", CLS, on_file(turned), "EXIF-rotated", "converted", False),
    Defect("upside down", ALL, on_file(lambda p: turned(p, 3)), "EXIF-rotated", "converted",
           False),
    # segmentation
    Defect("map missing", SEG, map_file(Path.unlink), "file is missing", "left out"),
    Defect("map empty", SEG, map_file(lambda p: p.write_bytes(b"")), "file is empty", "left out"),
    Defect("map cut", SEG, map_file(cut), "cannot be decoded", "left out"),
    Defect("image missing", SEG, lambda root, image: (label_map(root, image), image.unlink())[0],
           "label map without an image", "used", False),
    Defect("map size", SEG, change_map(lambda v: v[:-1]), "another size", "left out"),
    Defect("map turned", SEG, change_map(lambda v: v[:, :-9].T.copy()), "another size",
           "left out"),
    Defect("map colours", SEG, change_map(lambda v: np.stack([v] * 3, -1)), "colours",
           "left out"),
    Defect("label 2", SEG, change_map(put(2)), "unknown label", "left out"),
    Defect("label 254", SEG, change_map(put(254)), "unknown label", "left out"),
    Defect("label 300", SEG, change_map(put(300)), "above 255", "left out"),
    Defect("label 255", SEG, change_map(put(255)), "", "used", False),
    Defect("all ignored", SEG, change_map(lambda v: np.full_like(v, 255)), "everything is ignored",
           "used", False),
    # detection
    Defect("size", DET, change_json(lambda c, i, a: i.update(width=191)), "another size",
           "left out"),
    Defect("zero box", DET, change_json(lambda c, i, a: a.update(bbox=[5, 5, 0, 9])), "zero",
           "at start"),
    Defect("negative box", DET, change_json(lambda c, i, a: a.update(bbox=[50, 50, -9, 9])),
           "negative area", "at start"),
    Defect("outside", DET, change_json(lambda c, i, a: a.update(bbox=[500, 5, 9, 9])),
           "outside its image", "at start"),
    Defect("reaches out", DET, change_json(lambda c, i, a: a.update(bbox=[180, 5, 99, 9])),
           "reaches outside", "at start", False),
    Defect("nan", DET, change_json(lambda c, i, a: a.update(bbox=[math.nan, 5, 9, 9])), "NaN",
           "at start"),
    Defect("infinity", DET, change_json(lambda c, i, a: a.update(bbox=[0, 5, math.inf, 9])),
           "NaN or infinity", "left out"),
    Defect("tiny box", DET, change_json(lambda c, i, a: a.update(bbox=[5, 5, 0.5, 9])),
           "below one pixel", "at start", False),
    Defect("category", DET, change_json(lambda c, i, a: a.update(category_id=99)),
           "category that is not listed", "at start"),
    Defect("unknown name", DET,
           change_json(lambda c, i, a: c["categories"].append({"id": 2, "name": "ghost"})),
           "", "used", False),
    Defect("lost image", DET, change_json(lambda c, i, a: a.update(image_id=77)),
           "not listed", "at start"),
    Defect("no objects", DET, change_json(lambda c, i, a: c.update(annotations=[
           other for other in c["annotations"] if other["image_id"] != i["id"]])),
           "", "used", False),
    Defect("mask size", DET, change_json(lambda c, i, a: a.update(
           segmentation={"size": [96, 192], "counts": [96 * 192]})), "another size", "left out"),
    Defect("mask turned", DET, change_json(lambda c, i, a: a.update(
           segmentation={"size": [288, 128], "counts": [288 * 128]})), "another size",
           "left out"),
    Defect("run lengths", DET, change_json(lambda c, i, a: a["segmentation"].update(counts=[7])),
           "do not add up", "left out"),
    Defect("far polygon", DET, change_json(lambda c, i, a: a.update(
           segmentation=[[1, 1, 1e12, 5, 5, 9]])), "reaches far outside", "left out"),
    Defect("endless polygon", DET, change_json(lambda c, i, a: a.update(
           segmentation=[[0, 0, 190, 190] * 20_000])), "too long to be drawn", "left out"),
    Defect("number for a mask", DET, change_json(lambda c, i, a: a.update(segmentation=7)),
           "neither polygons nor run lengths", "left out"),
    Defect("short polygon", DET, change_json(lambda c, i, a: a.update(
           segmentation=[[1, 1, 5, 5]])), "without a polygon", "at start"),
    Defect("no mask", DET, change_json(lambda c, i, a: a.pop("segmentation")),
           "cannot be loaded", "left out"),
    Defect("escape", DET, change_json(lambda c, i, a: i.update(
           file_name="../../elsewhere/" + i["file_name"])), "outside the data root", "stops"),
    Defect("absolute", DET, change_json(lambda c, i, a: i.update(file_name="/etc/passwd")),
           "outside the data root", "stops"),
)  # fmt: skip


class Case(NamedTuple):
    """A defect in a task."""

    task: str
    defect: Defect

    def __str__(self) -> str:
        return f"{self.task}-{self.defect.name}".replace(" ", "-")


CASES = [Case(task, defect) for defect in DEFECTS for task in defect.tasks]
