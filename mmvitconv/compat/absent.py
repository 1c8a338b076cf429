"""Which operators of mmcv the stand-in offers, and whether a model needs others.

A model that calls an operator without a stand-in would fail where it is called first, which may be
at the first validation. :func:`check_model` reads the code of a built model instead of running it.
"""

from __future__ import annotations

import ast
import dis
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import util
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING

from mmvitconv.compat import OPERATOR_MODULE, MissingOperatorError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["check_model", "find_absent", "list_operators"]

_OPS = "mmcv.ops"
# Packages whose code calls no operator of mmcv by itself.
_FOREIGN = {"builtins", "mmengine", "numpy", "torch", "torchvision"}


def list_operators() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return what ``mmcv.ops`` asks its compiled module for, read from its source files.

    Returns:
        Operators that the stand-in offers, then those that it lacks, each by the file of
        ``mmcv.ops`` that asks for them.
    """
    from mmvitconv.compat import ext

    offered: dict[str, list[str]] = {}
    absent: dict[str, list[str]] = {}
    for file in sorted(Path(util.find_spec("mmcv").origin).parent.glob("ops/*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "load_ext"):
                continue
            for name in ast.literal_eval(node.args[1]):
                names = offered if name in ext.__all__ else absent
                names.setdefault(file.stem, []).append(name)
    return offered, absent


def check_model(model: nn.Module) -> None:
    """Refuse a model that calls operators of mmcv which are not there.

    Args:
        model: As built; nothing of it is run.

    Raises:
        MissingOperatorError: A module calls an absent operator; names the first one.
    """
    for name, module, operator in find_absent(model):
        where = f"module {name!r} of the model" if name else "the model"
        raise MissingOperatorError(operator, f"{where} ({type(module).__name__})")


def find_absent(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Search a model for operators that the stand-in lacks.

    Followed are the methods of each module and of the objects that it holds (assigners, coders),
    the functions that they name, and functions of ``mmcv.ops`` that settings name
    (``nms=dict(type='nms_rotated')``).

    Args:
        model: The model.

    Yields:
        Name of the module, the module, and the operator, each operator once.
    """
    extension = sys.modules.get(OPERATOR_MODULE)
    if extension is None or Path(extension.__file__).parent != Path(__file__).parent:
        return  # nothing has asked for an operator, or they are compiled
    on_gpu = any(parameter.is_cuda for parameter in model.parameters())
    search = _Search(extension, on_gpu)
    for name, module in model.named_modules():
        held = [value for key, value in vars(module).items() if key != "_modules"]
        for thing in (module, *_flatten(held)):
            for operator in search.of_object(thing):
                yield name, module, operator


def _flatten(values: Iterable[object]) -> Iterator[object]:
    """Yield the values, and those within lists, tuples and dicts."""
    seen, waiting = set(), [*values]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            waiting.extend(value.values())
        elif isinstance(value, (list, tuple)):
            waiting.extend(value)
            continue
        yield value


class _Search:
    """A search that looks at each function once."""

    def __init__(self, extension: ModuleType, on_gpu: bool) -> None:
        self.extension = extension
        self.on_gpu = on_gpu
        self.known = set(extension.__all__)  # offered, or reported already
        self.seen: set[int] = set()

    def of_object(self, thing: object) -> Iterator[str]:
        """Yield the absent operators that an object's methods, or settings, call."""
        if isinstance(thing, Mapping):
            kind = thing.get("type")
            named = getattr(sys.modules.get(_OPS), kind, None) if isinstance(kind, str) else None
            yield from self.of_value(named)
        elif isinstance(thing, (FunctionType, MethodType)):
            yield from self.of_value(thing)
        else:
            yield from self.of_class(type(thing))

    def of_class(self, kind: type) -> Iterator[str]:
        """Yield the absent operators that the methods of a class call."""
        for ancestor in kind.__mro__:
            if _is_foreign(ancestor) or id(ancestor) in self.seen:
                continue
            self.seen.add(id(ancestor))
            for member in vars(ancestor).values():
                for function in (
                    getattr(member, name, None) for name in ("__func__", "fget", "func")
                ):
                    yield from self.of_value(function)
                yield from self.of_value(member)

    def of_value(self, value: object) -> Iterator[str]:
        """Yield the absent operators that whatever a function has named calls."""
        owner = getattr(value, "__self__", None)
        if isinstance(owner, type) and owner.__module__.startswith(_OPS):
            yield from self.of_class(owner)  # the apply of an autograd function
        value = getattr(value, "__func__", value)
        if not isinstance(value, FunctionType) or _is_foreign(value) or id(value) in self.seen:
            return
        self.seen.add(id(value))
        yield from self.of_code(value.__code__, value.__globals__)
        for cell in value.__closure__ or ():  # what a decorator has wrapped
            try:
                yield from self.of_value(cell.cell_contents)
            except ValueError:  # not filled yet
                continue

    def of_code(self, code: CodeType, names: Mapping[str, object]) -> Iterator[str]:
        """Yield the absent operators that code calls, itself or through functions."""
        # Where mmcv asks for a GPU it has a formula in torch for everything else.
        asks_for_gpu = "is_cuda" in code.co_names or "cuda" in code.co_consts
        if asks_for_gpu and not self.on_gpu and str(names.get("__name__")).startswith(_OPS):
            return
        current: object = None  # what the last step has put onto the stack
        package: object = None  # what the last import statement is about
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                current = names.get(step.argval)
            elif step.opname == "IMPORT_NAME":
                current = package = sys.modules.get(step.argval)
            elif step.opname == "IMPORT_FROM":
                current = getattr(package, step.argval, None)
            elif step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                if current is self.extension and step.argval not in self.known:
                    self.known.add(step.argval)
                    yield step.argval
                is_namespace = isinstance(current, (ModuleType, type))
                current = vars(current).get(step.argval) if is_namespace else None
            else:
                current = None
            yield from self.of_value(current)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                yield from self.of_code(constant, names)


def _is_foreign(thing: type | FunctionType) -> bool:
    return (thing.__module__ or "").partition(".")[0] in _FOREIGN
