"""OpenMMLab without a compiler: operators for ``mmcv.ops`` when mmcv's own are not compiled.

``mmcv-lite`` ships every Python file of ``mmcv/ops`` and lacks only the compiled module
``mmcv._ext``. :func:`provide_operators` makes Python find a stand-in
(:mod:`mmvitconv.compat.ext`) under that name, built on torchvision's operators. It is asked last,
so a compiled ``mmcv._ext`` always wins, and nothing heavy is imported before mmcv itself asks.
"""

from __future__ import annotations

import sys

from mmvitconv.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:  # this file is imported at every start of Python: import nothing at run time
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = [
    "INSTALL_COMPILED_MMCV",
    "OPERATOR_MODULE",
    "MissingOperatorError",
    "StandInFinder",
    "provide_operators",
]

OPERATOR_MODULE = "mmcv._ext"
"""Full name of the module in which mmcv keeps its compiled operators."""

INSTALL_COMPILED_MMCV = (
    "pip uninstall -y mmcv-lite && "
    "MMCV_WITH_OPS=1 pip install --no-build-isolation --no-binary mmcv mmcv==2.1.0"
)
"""Shell line that compiles mmcv's own operators (a C++ compiler, with a GPU also nvcc)."""


class MissingOperatorError(UserError):
    """An operator of mmcv was called that has no stand-in.

    Args:
        operator: Name of the operator in ``mmcv._ext``.
    """

    def __init__(self, operator: str) -> None:
        super().__init__(
            f"mmcv's operator {operator!r} was called, but mmcv is installed without compiled "
            f"operators and mmvitconv has no stand-in for this one. Install a compiled mmcv: "
            f"{INSTALL_COMPILED_MMCV}"
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
