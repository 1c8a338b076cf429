"""``mmvitconv doctor``: one screen about the environment, and what is wrong with it.

Prints versions, which OpenMMLab stack is installed, who runs mmcv's operators, and every problem
with the one line that mends it. Exit code 1 when there is a problem, 0 otherwise.
"""

from __future__ import annotations

import argparse
import platform
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module, metadata, util
from pathlib import Path

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

MINIMUM_TORCH = (2, 4)
MMCV_RANGE_OF_UPSTREAM = ((2, 0, 0), (2, 2, 0))


@dataclass(frozen=True)
class Probes:
    """What can only be found out by trying.

    Attributes:
        operators: Who runs mmcv's operators: 'compiled', 'stand-in', or '' when none works.
        operators_error: Why a call of an operator failed; '' when it worked or was not tried.
        import_errors: Error text by name of the package that failed to import.
        has_pkg_resources: Whether ``pkg_resources`` (part of setuptools < 82) can be found.
        device: GPUs that torch sees, in words.
    """

    operators: str = ""
    operators_error: str = ""
    import_errors: Mapping[str, str] = field(default_factory=dict)
    has_pkg_resources: bool = True
    device: str = "no GPU: CPU only"


@dataclass(frozen=True)
class Problem:
    """Something wrong with the environment.

    Attributes:
        what: One sentence that says what is wrong.
        mend: The one shell line that mends it.
    """

    what: str
    mend: str


def release(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: '2.1.0rc1+cpu' gives (2, 1, 0)."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def stack_of(installed: Mapping[str, str]) -> str:
    """Return which OpenMMLab stack is installed.

    Args:
        installed: Version by distribution name.

    Returns:
        'upstream', 'onedl', 'mixed' or 'none'.
    """
    upstream = any(name in installed for name in UPSTREAM)
    onedl = any(name in installed for name in ONEDL)
    if upstream and onedl:
        return "mixed"
    return "upstream" if upstream else "onedl" if onedl else "none"


def find_problems(installed: Mapping[str, str], probes: Probes) -> list[Problem]:
    """Return everything that is wrong with an environment.

    Args:
        installed: Version by distribution name, as in ``pip list``.
        probes: What was found out by trying.

    Returns:
        The problems, causes before consequences; empty when all is well.
    """
    stack = stack_of(installed)
    if stack == "mixed":
        # Both write into the same folders, so that removing one breaks the other: start again.
        names = " ".join(sorted(name for name in {**UPSTREAM, **ONEDL} if name in installed))
        return [
            *_torch_problems(installed, probes),
            Problem(
                f"upstream OpenMMLab and its onedl forks are mixed ({names}): they overwrite each "
                "other's files.",
                f"pip uninstall -y {names} && {INSTALL['upstream']}",
            ),
        ]
    problems = _torch_problems(installed, probes)
    problems += _stack_problems(installed, stack)
    problems += _helper_problems(installed, probes, stack)
    if not problems:  # otherwise these are most likely consequences
        problems += _import_problems(installed, probes, stack)
    return problems


def _torch_problems(installed: Mapping[str, str], probes: Probes) -> list[Problem]:
    """Return what is wrong with torch and torchvision."""
    problems = []
    latest = "pip install --upgrade torch torchvision"
    if "torch" not in installed:
        problems.append(Problem("torch is not installed.", "pip install torch torchvision"))
    elif release(installed["torch"]) < MINIMUM_TORCH:
        problems.append(
            Problem(f"torch {installed['torch']} is too old: 2.4 or newer is needed.", latest)
        )
    elif "torchvision" not in installed:
        problems.append(
            Problem(
                "torchvision is not installed: timm, mmpretrain and the operators need it.",
                # Unpinned, pip could replace torch to suit the newest torchvision.
                f"pip install torchvision torch=={installed['torch']}",
            )
        )
    for package in ("torch", "torchvision"):
        if package in installed and package in probes.import_errors and not problems:
            problems.append(
                Problem(
                    f"{package} {installed[package]} cannot be imported "
                    f"({probes.import_errors[package]}); torch {installed['torch']} and "
                    "torchvision must come from the same index and belong together.",
                    "pip install --force-reinstall torch torchvision",
                )
            )
    return problems


def _stack_problems(installed: Mapping[str, str], stack: str) -> list[Problem]:
    """Return which OpenMMLab distributions are missing, doubled, unrelated or refused."""
    problems = []
    if "mmseg" in installed:
        line = "pip uninstall -y mmseg"
        if "mmsegmentation" in installed or "onedl-mmsegmentation" in installed:
            name = "mmsegmentation" if "mmsegmentation" in installed else "onedl-mmsegmentation"
            line += f" && pip install --force-reinstall --no-deps {name}=={installed[name]}"
        elif stack == "upstream":
            line += " && pip install mmsegmentation==1.2.2"
        problems.append(
            Problem(
                f"the distribution mmseg {installed['mmseg']} is a Chinese word segmenter that "
                "hides OpenMMLab's mmseg (whose distribution is called mmsegmentation).",
                line,
            )
        )
    if stack == "none":
        return [*problems, Problem("no OpenMMLab package is installed.", INSTALL["upstream"])]
    names = ONEDL if stack == "onedl" else UPSTREAM
    present = {package for name, package in names.items() if name in installed}
    problems.extend(
        Problem(f"{package} is not installed.", INSTALL[stack])
        for package in ("mmengine", "mmcv")
        if package not in present
    )
    if stack == "onedl":
        return problems
    if "mmcv-full" in installed:
        problems.append(
            Problem(
                f"mmcv-full {installed['mmcv-full']} belongs to the old OpenMMLab 1.x.",
                "pip uninstall -y mmcv-full && "
                "pip install --force-reinstall --no-deps mmcv-lite==2.1.0",
            )
        )
    if "mmcv" in installed and "mmcv-lite" in installed:
        problems.append(
            Problem(
                "mmcv and mmcv-lite are both installed and overwrite each other's files.",
                "pip uninstall -y mmcv mmcv-lite && pip install mmcv-lite==2.1.0",
            )
        )
    lowest, first_refused = MMCV_RANGE_OF_UPSTREAM
    for name in ("mmcv", "mmcv-lite"):
        version = installed.get(name)
        refusing = [task for task in ("mmdet", "mmsegmentation") if task in installed]
        if version and refusing and not lowest <= release(version) < first_refused:
            problems.append(
                Problem(
                    f"{name} {version} is refused by {' and '.join(refusing)}, "
                    "which accept 2.0.0 up to, not including, 2.2.0.",
                    f"pip uninstall -y {name} && pip install mmcv-lite==2.1.0",
                )
            )
    return problems


def _helper_problems(installed: Mapping[str, str], probes: Probes, stack: str) -> list[Problem]:
    """Return which small packages are missing that OpenMMLab imports without declaring them."""
    problems = []
    if stack == "upstream" and not probes.has_pkg_resources:
        setuptools = installed.get("setuptools", "(none)")
        problems.append(
            Problem(
                f"setuptools {setuptools} has no pkg_resources, which upstream mmengine imports.",
                "pip install 'setuptools<82'",
            )
        )
    if "mmsegmentation" in installed or "onedl-mmsegmentation" in installed:
        missing = [name for name in ("ftfy", "regex") if name not in installed]
        if missing:
            names = " ".join(missing)
            problems.append(
                Problem(f"mmseg imports {names} but does not declare it.", f"pip install {names}")
            )
    if "timm" not in installed and stack != "none":
        problems.append(Problem("timm is not installed.", "pip install timm"))
    return problems


def _import_problems(installed: Mapping[str, str], probes: Probes, stack: str) -> list[Problem]:
    """Return operators and packages that fail although nothing else explains it."""
    names = {
        package: name
        for name, package in (ONEDL if stack == "onedl" else UPSTREAM).items()
        if name in installed
    }
    if not probes.operators:
        name = names["mmcv"]
        plain = "mmcv-lite==2.1.0" if stack == "upstream" else f"{name}=={installed[name]}"
        reason = probes.operators_error or probes.import_errors.get("mmcv", "not tried")
        # The cache may hold the wheel that does not work.
        line = f"pip uninstall -y {name} && pip install --no-cache-dir {plain}"
        what = f"the operators of {name} {installed[name]} do not work ({reason})."
        return [Problem(what, line)]  # whatever else fails needs them
    return [
        Problem(
            f"{names[package]} {installed[names[package]]} cannot be imported ({error}).",
            f"pip install --force-reinstall --no-deps {names[package]}=="
            f"{installed[names[package]]}",
        )
        for package, error in probes.import_errors.items()
        if package in names
    ]


def installed_versions() -> dict[str, str]:
    """Return the version of every distribution that matters here and is installed."""
    versions = {}
    for name in (*OTHERS, *UPSTREAM, *ONEDL):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _one_line(error: BaseException) -> str:
    """Return an error as one short line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 160 else text[:157] + "..."


def probe(installed: Mapping[str, str]) -> Probes:
    """Try what cannot be read from version numbers: imports, one operator, the GPU.

    Args:
        installed: Version by distribution name.

    Returns:
        What was found out; no error is raised.
    """
    import_errors = {}
    packages = ["torch", "torchvision"]
    mm_names = {**UPSTREAM, **ONEDL}
    packages += sorted({mm_names[name] for name in mm_names if name in installed})
    for package in packages:
        try:
            # Their models need mmcv's operators and what OpenMMLab forgets to declare.
            import_module(f"{package}.models" if package in TASKS else package)
        except Exception as error:  # whatever a broken installation raises is the finding
            import_errors[package] = _one_line(error)
    operators, operators_error = "", ""
    if "mmcv" in packages and "mmcv" not in import_errors:
        operators, operators_error = _try_operators()
    return Probes(
        operators=operators,
        operators_error=operators_error,
        import_errors=import_errors,
        has_pkg_resources=util.find_spec("pkg_resources") is not None,
        device=Probes.device if "torch" in import_errors else _describe_device(),
    )


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


def _describe_device() -> str:
    """Return the GPUs that torch sees, in words."""
    import torch

    if not torch.cuda.is_available():
        return Probes.device
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"CUDA {torch.version.cuda}: {len(names)} x {', '.join(sorted(set(names)))}"


def report(installed: Mapping[str, str], probes: Probes, problems: list[Problem]) -> str:
    """Return the screen as text.

    Args:
        installed: Version by distribution name.
        probes: What was found out by trying.
        problems: What :func:`find_problems` found.

    Returns:
        Aligned lines, the problems last.
    """
    backends = {
        "compiled": "compiled mmcv",
        "stand-in": "stand-in of mmvitconv on torchvision (nms and roi_align tried)",
        "": "none works",
    }
    rows = [("python", f"{platform.python_version()} ({sys.executable})")]
    rows += [(name, installed.get(name, "not installed")) for name in ("torch", "torchvision")]
    rows += [("device", probes.device), ("OpenMMLab stack", stack_of(installed))]
    rows += [(name, installed[name]) for name in (*UPSTREAM, *ONEDL) if name in installed]
    rows += [("mmcv operators", backends[probes.operators])]
    rows += [("timm", installed.get("timm", "not installed"))]
    if stack_of(installed) in ("upstream", "mixed"):
        resources = "with" if probes.has_pkg_resources else "without"
        version = installed.get("setuptools", "not installed")
        rows += [("setuptools", f"{version} ({resources} pkg_resources)")]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    present = {{**UPSTREAM, **ONEDL}.get(name) for name in installed}
    absent = [
        f"{package} ([{extra}])" for package, extra in TASKS.items() if package not in present
    ]
    if absent:
        lines.append(f"{'not installed':<{width}}  {', '.join(absent)}")
    if not problems:
        return "\n".join([*lines, "", "No problems."])
    lines += ["", f"{len(problems)} problem{'s' if len(problems) > 1 else ''}:"]
    for number, problem in enumerate(problems, start=1):
        lines += [f"{number}. {problem.what}", f"   mend: {problem.mend}"]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the screen.

    Args:
        arguments: The command line, which has no options; None for ``sys.argv``.

    Returns:
        1 when something is wrong, 0 otherwise.
    """
    argparse.ArgumentParser(
        "mmvitconv doctor", description="What is installed and what is wrong."
    ).parse_args(arguments)
    warnings.simplefilter("ignore")  # deprecations inside OpenMMLab would bury the screen
    installed = installed_versions()
    probes = probe(installed)
    problems = find_problems(installed, probes)
    print(report(installed, probes, problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
