"""Run mmcv's, mmdet's and mmsegmentation's own code on the stand-in for mmcv's operators.

python tools/misc/peers.py [--only kernels detectors segmentors] [--cache FOLDER]
    [--resume] [--minutes N]

Fetches the sources of the installed versions by pip into a cache (nothing of them is copied into
this repository) and writes a section of docs/reliability.md:

* kernels: mmcv's sources hold no tests of operators. So its kernels for the CPU are compiled (with
  a C++ compiler; about a quarter of an hour the first time) and called beside the stand-in.
* detectors: mmdet's sources hold no tests, but one folder of configs per method. The model of one
  config each is built, trained for a step on random images, and asked for predictions.
* segmentors: mmsegmentation's own tests of heads, necks and segmentors.

Takes about an hour on two cores. The exit code is 1 when a failure has no known reason.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tarfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from functools import partial
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"
SECONDS = 300  # for a file of tests, or a detector
TOLERANCE = 1e-5  # some of mmcv's kernels know float32 only
SETS = ("kernels", "detectors", "segmentors")
DIED, TOO_LONG, NOT_RUN = "the process died", "over the time limit", "not run"
NOT_BUILT = "mmdet does not build it"
UNKNOWN = "failed, unknown why"
# Why something fails that the operators are not to blame for, by what the message holds.
REASONS = {
    "absent operator": r"mmvitconv has no stand-in",
    "not run": NOT_RUN,
    "left out by the test itself": r"^skipped",
    "needs a GPU": r"CUDA|NVIDIA",
    "needs another package": r"No module named|[Pp]lease (run |install)|is not installed",
    "needs the network or files": r"URLError|Connection|No such file|Can't load|huggingface",
    "needs an older torch": r"batch_norm eps must be positive",
    "needs an older timm": r"pretrained must be bool",
    "needs boxes of trained weights": r"upper bound and lower bound inconsistent",
    "cannot predict in this mmdet": r"'SSDHead' object has no attribute 'loss_cls'",
    "needs several processes": r"Default process group",
    "needs labelled and unlabelled images": r"'list' object has no attribute 'keys'",
    "needs proposals of another model": r"^AssertionError: $",  # Fast R-CNN
    "over the time limit": TOO_LONG,
    "not built by mmdet itself": NOT_BUILT,
}

# What methods say that take images of one size, or not small ones.
OF_ONE_SIZE = r"stack expects each|Sizes of tensors must match|greater than actual input size"


def find_reason(message: str) -> str:
    """Return why something failed, in the words of the page."""
    return next((why for why, sign in REASONS.items() if re.search(sign, message)), UNKNOWN)


def find_installed(*names: str) -> tuple[str, str]:
    """Return name and version of that of some distributions which is installed."""
    installed = {item.metadata["Name"].lower(): item.version for item in metadata.distributions()}
    name = next(name for name in names if name in installed)
    return name, installed[name]


def fetch(cache: Path, *names: str) -> Path:
    """Return the unpacked sources of that of some distributions which is installed."""
    name, version = find_installed(*names)
    source = name.removesuffix("-lite")
    stem = f"{source.replace('-', '_')}-{version}"
    if not (cache / stem).is_dir():
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check")
        options = ("--no-binary", ":all:", "--no-deps", "--no-build-isolation", "--dest", cache)
        subprocess.run([*pip, *options, f"{source}=={version}"], check=True)
        with tarfile.open(cache / f"{stem}.tar.gz") as archive:
            archive.extractall(cache, filter="data")
    return cache / stem


class Results:
    """Messages of what was run, '' for what passed, kept in a file beside the sources.

    Args:
        path: The file.
        resume: Keep what has passed according to the file.
    """

    def __init__(self, path: Path, resume: bool) -> None:
        self.path = path
        self.messages: dict[str, str] = {}
        if resume and path.is_file():
            self.messages = {k: v for k, v in json.loads(path.read_text()).items() if not v}

    def add(self, name: str, message: str) -> None:
        """Add a result, and print it."""
        self.messages[name] = message
        self.path.write_text(json.dumps(self.messages))
        print(f"{name}: {' '.join(message.split())[:300] or 'passed'}", flush=True)

    def write_table(self, what: str) -> tuple[str, bool]:
        """Return how many passed and what failed for which reason, and whether all is known."""
        by_reason = defaultdict(list)
        for name, message in self.messages.items():
            by_reason[find_reason(message) if message else ""].append(name)
        rows = [f"| passed | {len(by_reason.pop('', []))} | |"]
        rows += [
            f"| {reason} | {len(names)} | {', '.join(sorted(names))} |"
            for reason, names in sorted(by_reason.items())
        ]
        table = "\n".join((f"| {what} | number | which |", "| --- | --- | --- |", *rows))
        return table, UNKNOWN not in by_reason


# ----------------------------------------------------------------------------------------- kernels


def compile_kernels(folder: Path) -> Path:
    """Return mmcv's compiled module, built from its sources unless that was done before."""
    found = list((folder / "mmcv").glob("_ext.*"))
    if not found:
        script = folder / "setup.py"
        script.write_text(re.sub(r"std=c\+\+1[47]", "std=c++20", script.read_text()))
        flags = {"MMCV_WITH_OPS": "1", "CFLAGS": "-O2 -g0", "MAX_JOBS": str(os.cpu_count())}
        flags |= {"FORCE_CUDA": "0", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "setup.py", "build_ext", "--inplace"]
        log = folder / "build.log"
        with log.open("w") as file:
            done = subprocess.run(
                command, cwd=folder, env=os.environ | flags, stdout=file, stderr=file, check=False
            )
        found = list((folder / "mmcv").glob("_ext.*"))
        if done.returncode or not found:
            raise SystemExit(f"error: mmcv's kernels were not compiled; {log} says why")
    return found[0]


def kernel_cases() -> Iterator[tuple[str, Callable[[], Sequence]]]:
    """Yield names of operators and functions that call them with random inputs.

    The functions return outputs, then gradients.
    """
    import torch
    from mmcv import ops

    def numbers(*shape: int, seed: int) -> torch.Tensor:
        return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))

    def differentiate(function: Callable, *leaves: torch.Tensor) -> list[torch.Tensor]:
        leaves = [leaf.double().requires_grad_() for leaf in leaves]
        out = function(*leaves)
        weights = numbers(out.numel(), seed=9).view(out.shape).double()
        return [out, *torch.autograd.grad((out * weights).sum(), leaves)]

    for seed in range(20):
        corners = (numbers(40, 2, 2, seed=seed) * 30).sort(dim=1).values.flatten(1).double()
        scores = numbers(40, seed=seed + 100).double()
        image = torch.arange(40)[:, None] % 2
        rois = torch.cat((image, corners[:, [0, 1, 2, 3]]), dim=1)
        source = numbers(2, 3, 9, 7, seed=seed) - 0.5
        rotated = numbers(40, 5, seed=seed) * torch.tensor([20, 20, 15, 15, 7])
        rotated_rois = torch.cat((image, rotated), dim=1).double()

        yield "nms", lambda b=corners, s=scores: ops.nms(b.float(), s.float(), 0.4)
        for offset in (0, 1):
            for method in ("naive", "linear", "gaussian"):
                yield (
                    "softnms",
                    lambda b=corners, s=scores, o=offset, m=method: ops.soft_nms(
                        b.float(), s.float(), 0.3, 0.5, 0.05, m, o
                    ),
                )
        dets = torch.cat((corners, scores[:, None]), dim=1).float()
        yield "nms_match", lambda d=dets: ops.nms_match(d, 0.3)
        yield "box_iou_rotated", lambda r=rotated: [ops.box_iou_rotated(r[:20], r[20:], "iof")]
        yield "nms_rotated", lambda r=rotated, s=scores: ops.nms_rotated(r, s.float(), 0.1)
        for ratio in (0, 2):
            for aligned in (True, False):
                settings = (0.5, ratio, aligned)
                layer = ops.RoIAlignRotated((3, 2), *settings, clockwise=bool(seed % 2))
                yield (
                    "roi_align_rotated",
                    lambda x=source, r=rotated_rois, f=layer: differentiate(lambda y: f(y, r), x),
                )
                for mode in ("avg", "max"):
                    layer = ops.RoIAlign((3, 2), 0.5, ratio, mode, aligned)
                    yield (
                        "roi_align",
                        lambda x=source, r=rois, f=layer: differentiate(lambda y: f(y, r), x),
                    )
        for kind in ("collect", "distribute"):
            layer = ops.PSAMask(kind, (3, 5))
            masks = numbers(2, 15, 4, 5, seed=seed)
            yield "psamask", lambda x=masks, f=layer: differentiate(f, x)
        for stride, padding, dilation, groups, dgroups in (
            ((1, 1), (1, 1), (1, 1), 1, 1),
            ((2, 1), (0, 2), (1, 2), 2, 1),
            ((1, 2), (2, 1), (2, 1), 1, 2),
        ):
            geometry = (stride, padding, dilation, groups, dgroups)
            x, weight = numbers(2, 4, 8, 9, seed=seed), numbers(4, 4 // groups, 3, 2, seed=seed + 1)
            reach = (dilation[0] * 2, dilation[1])
            size = [(8 + a - reach[a] + 2 * padding[a] - 1) // stride[a] + 1 for a in (0, 1)]
            offset = numbers(2, 12 * dgroups, *size, seed=seed + 2) * 6 - 3
            if seed % 2:
                offset = offset.round()  # onto pixels and borders
            mask, bias = numbers(2, 6 * dgroups, *size, seed=seed + 3), numbers(4, seed=seed)
            yield (
                "deform_conv",
                lambda x=x, o=offset, w=weight, g=geometry: differentiate(
                    lambda *t: ops.deform_conv2d(*t, *g), x, o, w
                ),
            )
            for other in (None, (size[0] + 3, size[1] + 2)):  # offsets of another level's size
                if other is not None:
                    offset = numbers(2, 12 * dgroups, *other, seed=seed + 4) * 6 - 3
                    mask = numbers(2, 6 * dgroups, *other, seed=seed + 5)
                yield (
                    "modulated_deform_conv",
                    lambda x=x, o=offset, m=mask, w=weight, b=bias, g=geometry: differentiate(
                        lambda *t: ops.modulated_deform_conv2d(*t, *g), x, o, m, w, b
                    ),
                )


def compare_kernels(cache: Path) -> tuple[str, bool]:
    """Call compiled operators and the stand-in's with equal inputs; return table and success."""
    file = compile_kernels(fetch(cache, "mmcv-lite", "mmcv", "onedl-mmcv"))
    import mmcv.ops

    spec = util.spec_from_file_location("compiled._ext", file)
    compiled = util.module_from_spec(spec)
    spec.loader.exec_module(compiled)
    stand_in = mmcv._ext
    modules = [m for m in sys.modules.values() if getattr(m, "ext_module", None) is stand_in]
    cases, worst = Counter(), Counter()
    for name, call in kernel_cases():
        results = []
        for extension in (compiled, stand_in):
            for module in modules:
                module.ext_module = extension
            results.append(call())
        cases[name] += 1
        for first, second in zip(*results, strict=True):
            if first.shape != second.shape:
                worst[name] = float("inf")
                continue
            scale = first.abs().max().clamp(min=1) if first.numel() else 1
            difference = (first.double() - second.double()).abs().div(scale)
            worst[name] = max(worst[name], difference.max().item() if first.numel() else 0)
    for module in modules:
        module.ext_module = stand_in
    rows = [f"| `{name}` | {cases[name]} | {worst[name]:.1e} |" for name in sorted(cases)]
    head = (
        "| compiled by mmcv | calls, gradients included | largest difference |",
        "| --- | --- | --- |",
    )
    return "\n".join((*head, *rows)), all(value < TOLERANCE for value in worst.values())


# --------------------------------------------------------------------------------------- detectors


def run_detector(config: Path) -> None:
    """Train a config's model for a step on random images, and predict."""
    import torch
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.logging import MessageHub
    from mmengine.registry import init_default_scope

    from mmvitconv.compat.absent import check_model

    cfg = Config.fromfile(config)
    init_default_scope("mmdet")
    _remove_weights(cfg.model)
    torch.manual_seed(0)
    try:
        model = MODELS.build(cfg.model)
    except Exception as error:
        raise RuntimeError(f"{NOT_BUILT}: {error}") from error
    check_model(model)
    MessageHub.get_current_instance().update_info_dict({"epoch": 0, "iter": 0})  # as a runner does
    try:
        _train_and_predict(cfg, model, [[3, 224, 256], [3, 224, 240]])
    except RuntimeError as error:
        if not re.search(OF_ONE_SIZE, str(error)):
            raise
        _train_and_predict(cfg, model, [[3, 320, 320]] * 2)


def _train_and_predict(cfg: Any, model: Any, sizes: list[list[int]]) -> None:
    """Train a detector for a step on two images and ask for predictions on the first."""
    import torch
    from mmdet.testing import demo_mm_inputs

    model.train()
    classes = min([8, *map(int, re.findall(r"'num_classes': (\d+)", str(cfg.model)))])
    inputs = demo_mm_inputs(2, sizes, num_classes=8, with_mask=True, with_semantic=True)
    for sample in inputs["data_samples"]:
        sample.gt_instances.labels %= classes
    data = model.data_preprocessor(inputs, True)
    losses, _ = model.parse_losses(model(**data, mode="loss"))
    losses.backward()
    model.eval()
    with torch.no_grad():
        one = demo_mm_inputs(1, sizes[:1])  # mmcv's masked convolution knows single images only
        model(**model.data_preprocessor(one, False), mode="predict")


def _remove_weights(node: Any) -> None:
    """Take everything out of a config that would be downloaded."""
    if isinstance(node, dict):
        if (node.get("init_cfg") or {}) and "checkpoint" in node["init_cfg"]:
            node["init_cfg"] = None
        for key in node.keys() & {"pretrained", "teacher_ckpt"}:
            node[key] = None
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for value in node:
            _remove_weights(value)


def _report(function: Callable[[Path], None], path: Path, pipe: Any) -> None:
    warnings.simplefilter("ignore")
    try:
        function(path)
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
    else:
        pipe.send("")


def run_alone(function: Callable[[Path], None], path: Path) -> str:
    """Run a function in a process of its own and return its error, '' if there is none."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=_report, args=(function, path, theirs)
    )
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(SECONDS) else TOO_LONG
    except EOFError:
        return DIED
    finally:
        process.kill()
        process.join()


def list_detectors() -> Iterator[Path]:
    """Yield one config per folder of mmdet's, that is per method or paper."""
    import mmdet
    from mmdet.models.detectors import BaseDetector
    from mmdet.registry import MODELS
    from mmengine.config import Config

    configs = Path(mmdet.__file__).parent.glob(".mim/configs/[!_]*/*.py")
    known = set()
    # One stage and ResNet-50 first: these are the smallest.
    for path in sorted(configs, key=lambda p: ("rcnn" in p.name, "r50" not in p.name, p)):
        if path.parent in known:
            continue
        try:
            kind = Config.fromfile(path).get("model", {}).get("type")
        except FileNotFoundError:  # what it builds on is not in mmdet's package
            continue
        if kind and issubclass(MODELS.get(kind), BaseDetector):
            known.add(path.parent)
            yield path


def run_detectors(cache: Path, resume: bool, minutes: float) -> tuple[str, bool]:
    """Run one config of each of mmdet's folders; return table and success."""
    results = Results(cache / "detectors.json", resume)
    end = time.monotonic() + 60 * minutes
    for config in list_detectors():
        if config.stem not in results.messages:
            late = time.monotonic() > end
            results.add(config.stem, NOT_RUN if late else run_alone(run_detector, config))
    return results.write_table("detectors of mmdet")


# -------------------------------------------------------------------------------------- segmentors


def run_test_file(file: Path) -> None:
    """Run a file of tests and leave pytest's report beside it."""
    import pytest

    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    root = next(parent for parent in file.parents if parent.name == "tests").parent
    os.chdir(root)
    report = file.with_suffix(".xml")
    options = ("-q", "-W", "ignore", "-p", "no:cacheprovider", f"--rootdir={root}")
    pytest.main([*options, f"--junitxml={report}", str(file)])


def run_segmentors(cache: Path) -> tuple[str, bool]:
    """Run mmsegmentation's tests of heads, necks and segmentors; return table and success."""
    # What the files need is imported once, before their processes are forked.
    for name in ("mmcv.ops", "mmseg.models", "pytest"):
        import_module(name)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    folder = fetch(cache, "mmsegmentation", "onedl-mmsegmentation") / "tests" / "test_models"
    results = Results(cache / "segmentors.json", resume=False)
    for file in sorted(folder.glob("test_[hns]*/test_*.py")):
        report = file.with_suffix(".xml")
        report.unlink(missing_ok=True)
        message = run_alone(run_test_file, file)
        if message or not report.is_file():
            results.add(file.stem, message or DIED)
            continue
        for case in ElementTree.parse(report).iter("testcase"):
            problem = next(iter(case), None)  # a failure, an error, or skipped
            message = "" if problem is None else f"{problem.tag}: {problem.get('message')}"
            results.add(f"{file.stem}::{case.get('name')}", message)
    return results.write_table("tests of mmsegmentation")


def write_section(name: str, table: str) -> None:
    """Write a table between its markers on the page."""
    begin, end = (f"<!-- peers {name}: {edge} -->" for edge in ("begin", "end"))
    packages = (("mmcv-lite", "mmcv", "onedl-mmcv"), ("mmdet", "onedl-mmdetection"))
    packages += (("mmsegmentation", "onedl-mmsegmentation"), ("torch",), ("torchvision",))
    versions = ", ".join(" ".join(find_installed(*names)) for names in packages)
    source = f"`python tools/misc/peers.py --only {name}` on {date.today()}: {versions}"
    before, rest = PAGE.read_text().split(begin)
    section = f"{begin}\n\nMeasured by {source}.\n\n{table}\n\n{end}"
    PAGE.write_text(before + section + rest.split(end)[1])


def main(args: Sequence[str] | None = None) -> int:
    """Run what is asked for and write the page.

    Args:
        args: Command line, ``sys.argv`` by default.

    Returns:
        Exit code: 1 if something failed without a known reason.
    """
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=SETS, default=SETS, help="all by default")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "mmvitconv-peers")
    parser.add_argument("--resume", action="store_true", help="skip detectors that passed before")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="for all detectors")
    options = parser.parse_args(args)
    options.cache.mkdir(parents=True, exist_ok=True)
    good = True
    runs = {
        "kernels": compare_kernels,
        "detectors": partial(run_detectors, resume=options.resume, minutes=options.minutes),
        "segmentors": run_segmentors,
    }
    for name in options.only:
        table, success = runs[name](options.cache)
        good &= success
        write_section(name, table)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
