"""What is known about every architecture, from ``table.json``: nothing heavy is imported.

``tools/misc/write_zoo.py`` writes the table from the models, the configs and their metafiles.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mmvitconv.weights.index import weights_of

__all__ = ["TABLE", "Arch", "Family", "Paper", "Result", "ShippedConfig", "read_table", "to_json"]

TABLE = Path(__file__).with_name("table.json")
SCOPE = "mmvitconv"


@dataclass(frozen=True)
class Paper:
    """Where a family comes from."""

    title: str
    url: str
    code: str  # address of the original code; empty when there is none


@dataclass(frozen=True)
class Result:
    """A published number."""

    task: str  # as in the metafile: 'Image Classification'
    dataset: str  # 'COCO'
    metric: str  # 'box AP'
    value: float
    source: str  # who published it, and that it was not reproduced here


@dataclass(frozen=True)
class ShippedConfig:
    """A config whose backbone is an architecture."""

    path: str  # 'configs/fcvit/fcvit_s12_imagenet.py', legal in any folder
    task: str  # 'classification', 'detection' or 'segmentation'
    results: tuple[Result, ...]  # what is published for it


@dataclass(frozen=True)
class Arch:
    """An architecture of a family, as its backbone with default arguments."""

    family: str  # name of the registered class, 'FCViT'
    arch: str  # what its argument ``arch`` takes
    aliases: tuple[str, ...]  # other names of the same
    parameters: int  # of the backbone, without a classifier's head
    # Multiply-adds of the backbone for one image, by its size '224x224' (height first); None where
    # the backbone refuses the size.
    macs: Mapping[str, int | None] = field(hash=False)
    strides: tuple[int, ...]  # of its outputs, in pixels
    out_channels: tuple[int, ...]
    tasks: tuple[str, ...]  # what shipped configs use it for
    paper: Paper | None  # None if no config uses the family
    configs: tuple[ShippedConfig, ...]  # the shipped configs that use it
    unit: str = "stages"  # what its parts are called, or "blocks"
    part_parameters: tuple[int, ...] = ()  # of each part; a stem in front of all belongs to none
    snippet: str = ""  # Python code that puts it into a detection config, with the family's neck

    @property
    def type(self) -> str:
        """What a config writes: ``'mmvitconv.FCViT'``."""
        return f"{SCOPE}.{self.family}"

    @property
    def macs_224(self) -> int:
        """Multiply-adds of the backbone for one image of 224 x 224."""
        return self.macs["224x224"]

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the published weights, as in ``mmvitconv weights list``."""
        return tuple(entry.name for entry in weights_of(f"{self.family}:{self.arch}"))

    def to_dict(self) -> dict[str, Any]:
        """Return what ``mmvitconv list --json`` prints, as plain data."""
        hidden = ("macs", "unit", "part_parameters", "snippet")
        shown = {key: value for key, value in asdict(self).items() if key not in hidden}
        return {
            "type": self.type, "macs_224": self.macs_224, "weights": self.weights, **shown
        }  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A registered backbone."""

    default: str  # the architecture of a config that names none
    folders: tuple[str, ...]  # folders of configs in which it occurs
    archs: tuple[Arch, ...]


@cache
def read_table() -> dict[str, Family]:
    """Return the families by registered name, in the order of the registry."""
    return {
        name: Family(
            entry["default"], tuple(entry["folders"]), tuple(map(_read_arch, entry["archs"]))
        )
        for name, entry in json.loads(TABLE.read_text("utf-8")).items()
    }


def to_json(families: Mapping[str, Family]) -> str:
    """Return the text of the table, from families by registered name."""
    return json.dumps({name: asdict(family) for name, family in families.items()}, indent=1) + "\n"


def _read_arch(entry: Mapping[str, Any]) -> Arch:
    """Return an architecture from plain data."""
    configs = tuple(
        ShippedConfig(
            config["path"], config["task"], tuple(Result(**result) for result in config["results"])
        )
        for config in entry["configs"]
    )
    paper = None if entry["paper"] is None else Paper(**entry["paper"])
    values = {
        key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()
    }
    return Arch(**{**values, "paper": paper, "configs": configs})
