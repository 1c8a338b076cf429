"""``mmvitconv doctor``: one screen about the environment, and what is wrong with it.

Prints versions, which OpenMMLab stack is installed, who runs mmcv's operators, and every problem
with the one line that fixes it. Exit code 1 when there is a problem, 0 otherwise.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module, metadata, util
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from textwrap import shorten
from types import MappingProxyType
from typing import NamedTuple

from mmvitconv import compat

UPSTREAM = {
    "mmengine": "mmengine",
    "mmengine-lite": "mmengine",
    "mmcv": "mmcv",
    "mmcv-lite": "mmcv",
    "mmcv-full": "mmcv",
    "mmdet": "mmdet",
    "mmsegmentation": "mmseg",
    "mmpretrain": "mmpretrain",
}
"""Distributions of the upstream stack, and the package that each of them installs."""

ONEDL = {
    "onedl-mmengine": "mmengine",
    "onedl-mmcv": "mmcv",
    "onedl-mmdetection": "mmdet",
    "onedl-mmsegmentation": "mmseg",
    "onedl-mmpretrain": "mmpretrain",
}
"""Distributions of the maintained forks, and the package that each of them installs."""

STACKS = {"upstream": UPSTREAM, "onedl": ONEDL}
DISTRIBUTIONS = {**UPSTREAM, **ONEDL}

INSTALL = {
    "upstream": "pip install mmengine==0.10.7 mmcv-lite==2.1.0 mmpretrain==1.2.0 mmdet==3.3.0 "
    "mmsegmentation==1.2.2 timm ftfy regex 'setuptools<82'",
    "onedl": "pip install onedl-mmengine==0.10.12 onedl-mmcv==2.3.6 onedl-mmpretrain==1.3.6 "
    "onedl-mmdetection==3.5.1 onedl-mmsegmentation==1.4.2 timm ftfy regex",
}
"""Shell line that installs a whole stack in the versions that were tested together."""

OTHERS = ("torch", "torchvision", "timm", "setuptools", "ftfy", "regex", "mmseg")
TASKS = {"mmdet": "det", "mmseg": "seg", "mmpretrain": "cls"}
"""Task packages of OpenMMLab, and the extra of mmvitconv that installs each of them."""

NO_GPU = "no GPU: CPU only"
NO_STARTUP = "MMVITCONV_NO_STARTUP"
MINIMUM_TORCH = (2, 6)


class Probes(NamedTuple):
    """What version numbers do not say."""

    operators: str = ""  # who runs mmcv's: 'compiled', 'stand-in', or '' when none works
    operators_error: str = ""  # why a call of an operator failed; '' when it worked or was not made
    import_errors: Mapping[str, str] = MappingProxyType({})  # by name of the package
    has_pkg_resources: bool = True  # which is part of setuptools < 82
    device: str = NO_GPU  # GPUs, in words
    start_up: str = ""  # where the start-up file is, in words
    is_full: bool = False  # packages were imported and operators run, not only files looked at


class Problem(NamedTuple):
    """Something wrong with the environment: one sentence, and the one shell line that fixes it."""

    what: str
    fix: str


def release(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: '2.1.0rc1+cpu' gives (2, 1, 0)."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def stack_of(installed: Mapping[str, str]) -> str:
    """Return which OpenMMLab stack is installed: 'upstream', 'onedl', 'mixed' or 'none'."""
    found = [stack for stack, names in STACKS.items() if any(name in installed for name in names)]
    return "mixed" if len(found) > 1 else next(iter(found), "none")


def find_problems(installed: Mapping[str, str], probes: Probes) -> list[Problem]:
    """Return everything that is wrong with an environment.

    Args:
        installed: Version by distribution name, as in ``pip list``.
        probes: What version numbers do not say.

    Returns:
        The problems, causes before consequences.
    """
    stack = stack_of(installed)
    problems = [*_torch_problems(installed, probes)]
    if stack == "mixed":
        # Both write into the same folders, so that removing one breaks the other: start again.
        names = " ".join(sorted(_openmmlab(installed)))
        what = (
            f"upstream OpenMMLab and its onedl forks are mixed ({names}): they overwrite each "
            "other's files."
        )
        return [*problems, Problem(what, f"pip uninstall -y {names} && {INSTALL['upstream']}")]
    problems += _stack_problems(installed, stack)
    problems += _helper_problems(installed, probes, stack)
    # after others, failing imports are most likely their consequences
    return problems or [*_import_problems(installed, probes, stack)]


def _torch_problems(installed: Mapping[str, str], probes: Probes) -> Iterator[Problem]:
    """Yield what is wrong with torch and torchvision."""
    torch = installed.get("torch")
    broken = [name for name in ("torch", "torchvision") if name in probes.import_errors]
    if torch is None:
        yield Problem("torch is not installed.", "pip install torch torchvision")
    elif release(torch) < MINIMUM_TORCH:
        what = f"torch {torch} is too old: {'.'.join(map(str, MINIMUM_TORCH))} or newer is needed."
        yield Problem(what, "pip install --upgrade torch torchvision")
    elif "torchvision" not in installed:
        what = "torchvision is not installed: timm, mmpretrain and the operators need it."
        # Unpinned, pip could replace torch to suit the newest torchvision.
        yield Problem(what, f"pip install torchvision torch=={torch}")
    elif broken:
        what = (
            f"{broken[0]} {installed[broken[0]]} cannot be imported "
            f"({probes.import_errors[broken[0]]}); torch {torch} and torchvision must come from "
            "the same index and belong together."
        )
        yield Problem(what, "pip install --force-reinstall torch torchvision")


def _stack_problems(installed: Mapping[str, str], stack: str) -> Iterator[Problem]:
    """Yield which OpenMMLab distributions are missing, doubled, unrelated or refused."""
    if "mmseg" in installed:
        line = "pip uninstall -y mmseg"
        names = [name for name in ("mmsegmentation", "onedl-mmsegmentation") if name in installed]
        if names:
            again = f"{names[0]}=={installed[names[0]]}"
            line += f" && pip install --force-reinstall --no-deps {again}"
        elif stack == "upstream":
            line += " && pip install mmsegmentation==1.2.2"
        yield Problem(
            f"the distribution mmseg {installed['mmseg']} is a Chinese word segmenter that hides "
            "OpenMMLab's mmseg (whose distribution is called mmsegmentation).",
            line,
        )
    if stack == "none":
        yield Problem("no OpenMMLab package is installed.", INSTALL["upstream"])
        return
    present = {package for name, package in STACKS[stack].items() if name in installed}
    for package in ("mmengine", "mmcv"):
        if package not in present:
            yield Problem(f"{package} is not installed.", INSTALL[stack])
    if stack == "onedl":
        return
    if "mmcv-full" in installed:
        yield Problem(
            f"mmcv-full {installed['mmcv-full']} belongs to the old OpenMMLab 1.x.",
            "pip uninstall -y mmcv-full && "
            "pip install --force-reinstall --no-deps mmcv-lite==2.1.0",
        )
    if "mmcv" in installed and "mmcv-lite" in installed:
        yield Problem(
            "mmcv and mmcv-lite are both installed and overwrite each other's files.",
            "pip uninstall -y mmcv mmcv-lite && pip install mmcv-lite==2.1.0",
        )
    refusing = [task for task in ("mmdet", "mmsegmentation") if task in installed]
    for name in ("mmcv", "mmcv-lite"):
        version = installed.get(name)
        if version and refusing and not (2, 0, 0) <= release(version) < (2, 2, 0):
            yield Problem(
                f"{name} {version} is refused by {' and '.join(refusing)}, which accept 2.0.0 up "
                "to, not including, 2.2.0.",
                f"pip uninstall -y {name} && pip install mmcv-lite==2.1.0",
            )


def _helper_problems(installed: Mapping[str, str], probes: Probes, stack: str) -> Iterator[Problem]:
    """Yield which small packages are missing that OpenMMLab imports without declaring them."""
    if stack == "upstream" and not probes.has_pkg_resources:
        setuptools = installed.get("setuptools", "(none)")
        yield Problem(
            f"setuptools {setuptools} has no pkg_resources, which upstream mmengine imports.",
            "pip install 'setuptools<82'",
        )
    missing = " ".join(name for name in ("ftfy", "regex") if name not in installed)
    if missing and ("mmsegmentation" in installed or "onedl-mmsegmentation" in installed):
        yield Problem(f"mmseg imports {missing} but does not declare it.", f"pip install {missing}")
    if "timm" not in installed and stack != "none":
        yield Problem("timm is not installed.", "pip install timm")


def _import_problems(installed: Mapping[str, str], probes: Probes, stack: str) -> Iterator[Problem]:
    """Yield operators and packages that fail although nothing else explains it."""
    names = {package: name for name, package in STACKS[stack].items() if name in installed}
    if not probes.operators:  # whatever else fails needs them
        name = names["mmcv"]
        plain = "mmcv-lite==2.1.0" if stack == "upstream" else f"{name}=={installed[name]}"
        reason = probes.operators_error or probes.import_errors.get("mmcv", "not tried")
        yield Problem(
            f"the operators of {name} {installed[name]} do not work ({reason}).",
            # The cache may hold the wheel that does not work.
            f"pip uninstall -y {name} && pip install --no-cache-dir {plain}",
        )
        return
    for package, error in probes.import_errors.items():
        if package in names:
            pinned = f"{names[package]}=={installed[names[package]]}"
            yield Problem(
                f"{pinned.replace('==', ' ')} cannot be imported ({error}).",
                f"pip install --force-reinstall --no-deps {pinned}",
            )


def installed_versions() -> dict[str, str]:
    """Return the version of every distribution that matters here and is installed."""
    versions = {}
    for name in (*OTHERS, *DISTRIBUTIONS):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def probe(installed: Mapping[str, str], full: bool = False) -> Probes:
    """Look at what cannot be read from version numbers; no error is raised.

    Args:
        installed: Version by distribution name.
        full: Import the packages, run two operators and ask torch for its GPUs, which takes
            seconds. Otherwise only files are looked at.
    """
    present = {DISTRIBUTIONS[name] for name in _openmmlab(installed)}
    packages = ("torch", "torchvision", *sorted(present))
    errors = {name: error for name in packages if (error := _import_error(name, full))}
    operators = ("", "")
    if "mmcv" in present - errors.keys():
        operators = _try_operators() if full else (_find_operators(), "")
    device = NO_GPU
    if "torch" not in errors:
        device = _ask_torch_for_gpus() if full else _find_gpus()
    has_pkg_resources = util.find_spec("pkg_resources") is not None
    return Probes(*operators, errors, has_pkg_resources, device, _find_start_up(), is_full=full)


def _openmmlab(installed: Mapping[str, str]) -> list[str]:
    """Return the distributions of OpenMMLab that are installed."""
    return [name for name in DISTRIBUTIONS if name in installed]


def _import_error(package: str, full: bool) -> str:
    """Return why a package cannot be imported, '' when it can or, if not full, is there."""
    if not full:
        spec = util.find_spec(package)
        # what a broken removal leaves is a folder without the package's files
        return "" if spec is not None and spec.origin else "its files are missing"
    try:
        # Their models need mmcv's operators and what OpenMMLab forgets to declare.
        import_module(f"{package}.models" if package in TASKS else package)
    except Exception as error:  # whatever a broken installation raises is the finding
        return _one_line(error)
    return ""


def _one_line(error: BaseException) -> str:
    """Return an error as one short line."""
    return shorten(f"{type(error).__name__}: {error}", 160, placeholder="...")


def _find_operators() -> str:
    """Return who will run mmcv's operators, by mmcv's files."""
    folder = Path(util.find_spec("mmcv").origin).parent
    is_compiled = any((folder / f"_ext{suffix}").is_file() for suffix in EXTENSION_SUFFIXES)
    return "compiled" if is_compiled else "stand-in"


def _try_operators() -> tuple[str, str]:
    """Run two operators; return who ran them, and an error text when they failed."""
    try:
        import torch
        from mmcv import _ext
        from mmcv.ops import nms, roi_align

        box = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
        kept = nms(box.repeat(2, 1), torch.tensor([0.5, 0.75]), 0.5)[1]
        pooled = roi_align(torch.ones(1, 1, 4, 4), torch.tensor([[0.0, 0, 0, 2, 2]]), (1, 1))
        if kept.tolist() != [1] or pooled.item() != 1:
            return "", "nms and roi_align give wrong results"
        stand_in = Path(compat.__file__).with_name("ext.py")
        return ("stand-in" if _ext.__spec__.origin == str(stand_in) else "compiled"), ""
    except Exception as error:  # whatever a broken installation raises is the finding
        return "", _one_line(error)


def _find_gpus(driver: Path = Path("/proc/driver/nvidia/gpus")) -> str:
    """Return the GPUs in words, from what torch and NVIDIA's driver on Linux have written."""
    texts = [path.read_text(errors="replace") for path in sorted(driver.glob("*/information"))]
    models = re.findall(r"^Model:\s*(.+?)\s*$", "\n".join(texts), flags=re.MULTILINE)
    if not models:
        return NO_GPU
    version = Path(util.find_spec("torch").origin).with_name("version.py").read_text()
    cuda = re.search(r"^cuda\b.*= '([\d.]+)'", version, flags=re.MULTILINE)
    return _name_gpus(cuda.group(1) if cuda else None, models)


def _ask_torch_for_gpus() -> str:
    """Return the GPUs that torch sees, in words."""
    import torch

    if not torch.cuda.is_available():
        return NO_GPU
    count = torch.cuda.device_count()
    return _name_gpus(torch.version.cuda, map(torch.cuda.get_device_name, range(count)))


def _name_gpus(cuda: str | None, models: Iterable[str]) -> str:
    """Return GPUs in words."""
    models = list(models)
    names = f"{len(models)} x {', '.join(sorted(set(models)))}"
    return f"CUDA {cuda}: {names}" if cuda else f"{names}, but this torch is for CPUs only"


def _find_start_up() -> str:
    """Return the state of the start-up file in words."""
    found = [file for folder in sys.path if (file := Path(folder, "mmvitconv.pth")).is_file()]
    if not found:
        return "none: import mmvitconv before mmcv.ops"
    return f"off by {NO_STARTUP}" if os.environ.get(NO_STARTUP) else str(found[0])


def report(installed: Mapping[str, str], probes: Probes, problems: list[Problem]) -> str:
    """Return the screen as text: aligned lines, then what :func:`find_problems` found."""
    words = {"compiled": "compiled mmcv", "stand-in": "stand-in of mmvitconv on torchvision"}
    operators = words.get(probes.operators, "none works")
    if probes.operators:
        operators += f" ({'nms and roi_align tried' if probes.is_full else 'not tried'})"
    stack = stack_of(installed)
    rows = [("python", f"{platform.python_version()} ({sys.executable})")]
    rows += [(name, installed.get(name, "not installed")) for name in ("torch", "torchvision")]
    rows += [("device", probes.device), ("OpenMMLab stack", stack)]
    rows += [(name, installed[name]) for name in _openmmlab(installed)]
    rows += [("mmcv operators", operators), ("start-up file", probes.start_up)]
    rows += [("timm", installed.get("timm", "not installed"))]
    if stack in ("upstream", "mixed"):
        resources = "with" if probes.has_pkg_resources else "without"
        version = installed.get("setuptools", "not installed")
        rows += [("setuptools", f"{version} ({resources} pkg_resources)")]
    present = {DISTRIBUTIONS.get(name) for name in installed}
    absent = [f"{task} ([{extra}])" for task, extra in TASKS.items() if task not in present]
    if absent:
        rows += [("not installed", ", ".join(absent))]
    width = max(len(name) for name, _ in rows)
    lines = [*(f"{name:<{width}}  {value}" for name, value in rows), ""]
    if problems:
        lines += [f"{len(problems)} problem{'s' if len(problems) > 1 else ''}:"]
    for number, problem in enumerate(problems, start=1):
        lines += [f"{number}. {problem.what}", f"   fix: {problem.fix}"]
    if not problems:
        lines += ["No problems."]
    if not probes.is_full:
        lines += ["'mmvitconv doctor --full' imports all packages and runs two operators as well."]
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--full",
        action="store_true",
        help="import all packages, run two operators and ask torch for its GPUs (takes seconds)",
    )


def run(options: argparse.Namespace) -> int:
    """Print the screen; return 1 when something is wrong, 0 otherwise."""
    warnings.simplefilter("ignore")  # deprecations inside OpenMMLab would bury the screen
    installed = installed_versions()
    probes = probe(installed, options.full)
    problems = find_problems(installed, probes)
    print(report(installed, probes, problems))
    return 1 if problems else 0


if __name__ == "__main__":
    main_parser = argparse.ArgumentParser("mmvitconv doctor", description=__doc__)
    add_arguments(main_parser)
    sys.exit(run(main_parser.parse_args()))
