"""OpenMMLab without a compiler: operators for ``mmcv.ops`` when mmcv's own are not compiled.

``mmcv-lite`` ships every Python file of ``mmcv/ops`` and lacks only the compiled module
``mmcv._ext``. :func:`provide_operators` makes Python find a stand-in
(:mod:`mmvitconv.compat.ext`) under that name, built on torchvision's operators. It is asked last,
so a compiled ``mmcv._ext`` always wins, and nothing heavy is imported before mmcv itself asks.

Importing mmvitconv calls it. Where nothing of ours is imported, the start-up file of an
installation (``mmvitconv.pth``, see ``setup.py``) asks :class:`StandInFinder` as soon as
``mmcv._ext`` is wanted.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mmvitconv.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = [
    "OPERATOR_MODULE",
    "MissingOperatorError",
    "StandInFinder",
    "install_line_of_compiled_mmcv",
    "provide_operators",
]

OPERATOR_MODULE = "mmcv._ext"
"""Full name of the module in which mmcv keeps its compiled operators."""


def install_line_of_compiled_mmcv() -> str:
    """Return the shell line that compiles mmcv's own operators.

    It needs a C++ compiler, with a GPU also nvcc. The sources ask for C++17 (or 14), while recent
    torch headers need C++20, hence the edit in the middle.

    Returns:
        One line for the stack that is installed: the upstream one or the onedl forks.
    """
    from importlib import metadata

    try:
        metadata.version("onedl-mmcv")
        name, version, other = "onedl-mmcv", "2.3.6", "onedl-mmcv"
    except metadata.PackageNotFoundError:
        name, version, other = "mmcv", "2.1.0", "mmcv-lite"
    folder = f"{name.replace('-', '_')}-{version}"
    return (
        f"pip download --no-deps --no-build-isolation --no-binary :all: {name}=={version} && "
        f"tar xf {folder}.tar.gz && sed -i 's/std=c++1[47]/std=c++20/' {folder}/setup.py && "
        f"pip uninstall -y {other} && "
        f"MMCV_WITH_OPS=1 pip install --no-build-isolation --no-deps ./{folder}"
    )


class MissingOperatorError(UserError):
    """Something calls an operator of mmcv that has no stand-in.

    Args:
        operator: Name of the operator in ``mmcv._ext``.
        caller: What calls it, if known.
    """

    def __init__(self, operator: str, caller: str = "something in this run") -> None:
        super().__init__(
            f"{caller} calls mmcv's operator {operator!r}, but mmcv is installed without compiled "
            f"operators and mmvitconv has no stand-in for this one (docs/stacks.md lists them): "
            f"choose a model that does without, or install a compiled mmcv: "
            f"{install_line_of_compiled_mmcv()}"
        )


class StandInFinder:
    """Import finder that answers for ``mmcv._ext`` alone, with our stand-in."""

    @staticmethod
    def find_spec(
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Answer Python's question where a module comes from.

        Args:
            fullname: Full name of the module that is being imported.
            path: Search path of the parent package; not needed, the stand-in is one known file.
            target: Module that is being reloaded; not needed.

        Returns:
            The stand-in's import specification for ``mmcv._ext``, None for any other name.
        """
        if fullname != OPERATOR_MODULE:
            return None
        from importlib.util import spec_from_file_location
        from os.path import abspath, dirname, join

        return spec_from_file_location(fullname, join(dirname(abspath(__file__)), "ext.py"))


def provide_operators() -> None:
    """Make ``mmcv.ops`` importable where mmcv has no compiled operators.

    Appends :class:`StandInFinder` to ``sys.meta_path``: every regular way to find ``mmcv._ext``
    is tried before. Calling it again changes nothing. Costs microseconds.
    """
    # Compared by name: after a reload of this module the class is another object.
    known = f"{StandInFinder.__module__}.{StandInFinder.__qualname__}"
    for finder in sys.meta_path:
        if f"{finder.__module__}.{getattr(finder, '__qualname__', '')}" == known:
            return
    sys.meta_path.append(StandInFinder)
