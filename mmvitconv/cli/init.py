"""Write a config for your own images and labels, whatever tool they come from.

mmvitconv init detection --data photos/ --arch fcvit_s12 --out my_config.py

The folder may hold COCO json, VOC xml, YOLO txt, labelme json, the formats of CVAT, VIA and Label
Studio, csv, a folder a class, or masks of any kind; it is not changed. What has to be converted
goes into a folder beside the config. Then train, check, test and predict take the config.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
from pathlib import Path

from mmvitconv.errors import UserError

TASKS = ("classification", "detection", "instance", "semantic")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "task", choices=TASKS, help="instance: boxes and masks; semantic: a class for each pixel"
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of images and labels")
    parser.add_argument(
        "--arch", default="fcvit_s12", help="as mmvitconv list shows it (default: %(default)s)"
    )
    parser.add_argument(
        "--out", default="my_config.py", type=Path, help="config to write (default: %(default)s)"
    )
    parser.add_argument(
        "--from-scratch", action="store_true", help="start from random weights, not ImageNet's"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the division into train and val (default: 0)"
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "gpu"),
        help="what will train: sizes and length depend on it (default: a GPU if there is one here)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier config")


def _is_cpu(device: str | None) -> bool:
    """Tell whether a CPU is to train."""
    if device is not None:
        return device == "cpu"
    import torch

    return not torch.cuda.is_available()


def run(options: argparse.Namespace) -> None:
    """Look at the folder, write the config and say what was decided.

    Raises:
        UserError: Nothing in the folder fits the task, or the config is there already.
    """
    out = options.out.expanduser()
    folder = out.with_name(f"{out.stem}_data")
    if out.suffix != ".py":
        raise UserError(f"--out {str(out)!r}: a config is a .py file; give --out {out.stem}.py")
    for path in (out, folder):
        if path.exists() and not options.overwrite:
            raise UserError(
                f"{str(path)!r} is there already; give another --out, or --overwrite to replace it"
            )
    from mmvitconv.datasets.formats.reading import read_folder  # imports numpy and Pillow
    from mmvitconv.zoo.catalogue import find_arch
    from mmvitconv.zoo.own_config import plan_config
    from mmvitconv.zoo.own_model import find_recipe

    arch = find_arch(options.arch)
    recipe = find_recipe(arch, options.task)
    if options.from_scratch:
        recipe.start_from_scratch()
    data = read_folder(options.data, options.task, options.seed)
    command = f"mmvitconv init {shlex.join(options.arguments)}"
    title = f"{arch.family} {arch.arch}"
    plan = plan_config(data, recipe, title, out, command, on_cpu=_is_cpu(options.device))
    if folder.is_dir():
        shutil.rmtree(folder)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        plan.write()
    except UserError:  # nothing of a data set that cannot be used stays
        shutil.rmtree(folder, ignore_errors=True)
        raise
    out.write_text(plan.text, encoding="utf-8")
    for line in plan.summary:
        print(line)
    written = f" and {plan.folder}/" if plan.folder else ""
    print(f"written: {out}{written}; next: mmvitconv train {shlex.quote(str(out))}")
