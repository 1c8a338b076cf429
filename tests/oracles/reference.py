"""Reads the reference fixtures: numbers that the original implementations produced."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from oracles.fill_rule import fill_value
from torch import Tensor

ROOT = Path(__file__).parents[1] / "data" / "reference"


@dataclass
class Reference:
    """One fixture: original state dict, input, options and stored outputs."""

    name: str
    state_dict: dict[str, Tensor]
    x: Tensor
    config: dict
    arrays: dict[str, np.ndarray]

    @property
    def is_classifier(self) -> bool:
        return "logits" in self.arrays


def fill(keys: list[str], shapes: list) -> dict[str, Tensor]:
    return {
        key: torch.from_numpy(np.asarray(fill_value(key, tuple(shape))))
        for key, shape in zip(keys, shapes, strict=True)
    }


def fill_like(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The rule's weights for a state dict with original keys; index buffers stay as built."""
    filled = fill(list(state_dict), [tuple(value.shape) for value in state_dict.values()])
    indices = {key: value for key, value in state_dict.items() if key.endswith("_index")}
    return {**filled, **indices}


def names(family: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / family).glob("*.npz"))


def read(family: str, name: str) -> Reference:
    with np.load(ROOT / family / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    keys = arrays.pop("keys")
    # one family stores an array of strings, the other one JSON string
    keys = [str(key) for key in keys] if keys.ndim else json.loads(str(keys))
    shapes = json.loads(str(arrays.pop("shapes")))
    config = json.loads(str(arrays.pop("config"))) if "config" in arrays else {}
    shape = arrays.pop("input_shape")
    x = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
    return Reference(name, fill(keys, shapes), torch.from_numpy(x), config, arrays)
