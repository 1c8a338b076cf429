"""What key layouts share: the entries of layers, and tables of names that must be complete."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from mmvitconv.errors import CheckpointError, describe_mismatch

__all__ = [
    "LAYER",
    "NORM",
    "TRANSFORMER_BLOCK",
    "add_head",
    "count",
    "from_openmmlab",
    "has",
    "output_norms",
    "pair_names",
    "refuse_without_parc",
    "rename",
    "same",
]

LAYER = ("weight", "bias")
NORM = (*LAYER, "running_mean", "running_var", "num_batches_tracked")
# Layers of the usual Transformer block: theirs -> ours.
TRANSFORMER_BLOCK = {
    "norm1": "norm1",
    "attn.qkv": "mixer.qkv",
    "attn.proj": "mixer.proj",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
# How mmpretrain, mmdetection and mmsegmentation call the layers of Transformers, and how timm does.
_OPENMMLAB = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"\.attn\.w_msa\.", ".attn."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    (r"\.ln([12])\.", r".norm\1."),
    (r"^ln1\.", "norm."),
    (r"^head\.layers\.head(_dist)?\.", r"head\1."),
)


def from_openmmlab(key: str, blocks: tuple[str, str]) -> str:
    """Return timm's name of an entry; a key that is not OpenMMLab's stays as it is.

    Args:
        key: A key of a Transformer of mmpretrain, mmdetection or mmsegmentation.
        blocks: How they call the list of blocks or stages, and how timm does.
    """
    for pattern, name in _OPENMMLAB:
        key = re.sub(pattern, name, key)
    return re.sub(rf"^{blocks[0]}\.(?=\d)", f"{blocks[1]}.", key)


def rename(
    state_dict: Mapping[str, Tensor], names: Mapping[str, str], model: str
) -> dict[str, Tensor]:
    """Rename all entries of a state dict.

    Args:
        state_dict: Tensors by original key.
        names: Our key by original key, for every key that the model has.
        model: What the weights should be, for the message.

    Returns:
        Tensors by our key.

    Raises:
        CheckpointError: Keys are missing or left over.
    """
    missing, left_over = names.keys() - state_dict.keys(), state_dict.keys() - names.keys()
    if missing or left_over:
        raise CheckpointError(
            describe_mismatch(missing, left_over, f"these weights are not a complete {model}")
        )
    return {names[key]: value for key, value in state_dict.items()}


def same(theirs: str, ours: str, entries: Iterable[str] = LAYER) -> dict[str, str]:
    """Return the names of a layer whose entries are called alike."""
    return {f"{theirs}.{entry}": f"{ours}.{entry}" for entry in entries}


def count(keys: Iterable[str], pattern: str) -> int:
    """Return one more than the largest index that a pattern's group finds; at least 1."""
    matches = (re.match(pattern, key) for key in keys)
    return 1 + max((int(match[1]) for match in matches if match), default=0)


def has(keys: Iterable[str], *prefixes: str) -> bool:
    """Return whether a key begins with one of the prefixes."""
    return any(key.startswith(prefixes) for key in keys)


def output_norms(keys: Iterable[str], stages: int, classifier: Iterable[str]) -> dict[str, str]:
    """Return the names of the norms behind stages.

    Args:
        keys: Original keys. ``norm.*`` is a classifier's, ``norm{stage}.*`` a dense backbone's,
            which has all of them, or those that its outputs need.
        stages: Number of stages.
        classifier: Prefixes that only a classifier has, beside ``norm.``.
    """
    if has(keys, "norm.", *classifier):
        return same("norm", f"backbone.norm{stages - 1}")
    norms = [f"norm{stage}" for stage in range(stages)]
    present = [norm for norm in norms if has(keys, f"{norm}.")]
    names: dict[str, str] = {}
    for norm in present or norms:
        names |= same(norm, f"backbone.{norm}")
    return names


def add_head(names: dict[str, str], keys: Iterable[str], theirs: str, layer: str = "") -> None:
    """Add the classifier's last layer to a table where the keys have one.

    Args:
        names: Our key by original key; extended in place.
        keys: Original keys.
        theirs: Prefix of the head.
        layer: Name of its layer, where that is another.
    """
    if has(keys, f"{theirs}."):
        names |= same(layer or theirs, "head.fc")


def pair_names(theirs: str, ours: str, position_embedding: bool) -> dict[str, str]:
    """Return the names of a ParC-H and a ParC-W layer side by side, as all ParC-ConvNets have them.

    Args:
        theirs: What the originals put before ``H.gcc_conv.weight``.
        ours: What we put before ``.height.weight``.
        position_embedding: Whether the layers have one.

    Returns:
        Our key by original key.
    """
    names = {}
    for letter, direction in (("H", "height"), ("W", "width")):
        names |= same(f"{theirs}{letter}.gcc_conv", f"{ours}.{direction}")
        if position_embedding:
            names[f"{theirs}{letter}.pe"] = f"{ours}.{direction}.position_embedding"
    return names


def refuse_without_parc(keys: Iterable[str], pattern: re.Pattern, model: str, layers: str) -> None:
    """Raise a CheckpointError when no block has ParC layers.

    Args:
        keys: Original keys.
        pattern: Matches the key of such a layer.
        model: What the weights should be, for the message.
        layers: How its layers are called, for the message.
    """
    if not any(map(pattern.match, keys)):
        raise CheckpointError(
            f"these weights are not a {model}: no block has {layers} layers; give a file of one, "
            "or another family"
        )
