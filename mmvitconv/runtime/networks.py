"""Compiled graphs in the place of a model's dense parts."""

from __future__ import annotations

import copy
import ctypes
import hashlib
import json
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mmvitconv.errors import UserError
from mmvitconv.runtime import openvino
from mmvitconv.runtime.fold import InferenceOnly, fold
from mmvitconv.runtime.graph_cache import add_tensor, digest, folder_of
from mmvitconv.runtime.graphs import Graph, compare, forget_compiled
from mmvitconv.runtime.tracing import TRACED_SHAPE, write_onnx

__all__ = ["PRECISIONS", "RUNTIMES", "accelerate", "check_runtime"]

ModelT = TypeVar("ModelT", bound=nn.Module)

# What runs in which precision, and what has to be installed.
PRECISIONS = {
    "openvino": ("fp32", "bf16", "int8"),
    "onnxruntime": ("fp32",),
    "inductor": ("fp32", "bf16"),
    "eager": ("fp32", "bf16"),
}
RUNTIMES = tuple(PRECISIONS)
_GRAPHS = ("openvino", "onnxruntime")
MOST_SIZES = 8  # graphs of one size that a part keeps, where one graph cannot take all
# What a graph of any size is tried with besides what it was traced with: sizes that leave a rest
# everywhere, and sizes that leave none.
_OTHER_SHAPES = ((161, 130), (224, 256))
_ROIS = 3  # of a graph's trace
MOST_IMAGES = 128  # items of calibration data that are looked at
MOST_RECORDED = 2**29  # bytes of a part's inputs that ranges are taken from
COMPARED = 4  # of these inputs, on which a quantised graph is compared


def check_runtime(runtime: str, precision: str) -> None:
    """Raise a UserError unless a runtime is installed and has the precision.

    Args:
        runtime: One of ``RUNTIMES``.
        precision: ``'fp32'``, ``'bf16'`` or ``'int8'``.
    """
    if runtime not in PRECISIONS:
        raise UserError(f"runtime {runtime!r} is unknown; give one of {', '.join(RUNTIMES)}")
    if precision not in PRECISIONS[runtime]:
        able = [name for name, legal in PRECISIONS.items() if precision in legal]
        advice = f", or one of the runtimes {', '.join(able)}" if able else ""
        raise UserError(
            f"the runtime {runtime!r} has no precision {precision!r}; give "
            f"{' or '.join(PRECISIONS[runtime])}{advice}"
        )
    for package in (runtime, "onnx") if runtime in _GRAPHS else ():
        try:
            import_module(package)
        except ImportError as error:
            raise UserError(
                f"the runtime {runtime!r} needs {package}; run: pip install {package}"
            ) from error
    if precision == "int8" and find_spec("nncf") is None:  # its import takes seconds
        raise UserError("the precision 'int8' needs nncf; run: pip install nncf")


def accelerate(
    model: ModelT,
    runtime: str = "openvino",
    precision: str = "fp32",
    sizes: Iterable[tuple[int, int]] | None = None,
    inplace: bool = False,
    calibration: Iterable[Any] | None = None,
) -> ModelT:
    """Fold a model, and run its dense parts as compiled graphs.

    The parts are the backbone, the neck, the networks of dense heads and those of RoI heads; what
    is between and behind them (anchors, proposals, non-maximum suppression, resizing) stays in
    torch. Modules, their attributes and their weights stay where they are, and every call has the
    signature that it had. A graph takes any batch and any image size; where a part of somebody
    else's model cannot be had so, there is a graph for each size, the last 8 of them, or the part
    stays in torch, with a warning. With OpenVINO, shapes that come three times in a row get a
    compilation of their own (four of them a part), which is up to twice as fast; the third call
    waits for it.

    Graphs are checked against torch when they are made, and kept in ``graphs`` of the cache folder
    (MMVITCONV_HOME), by weights, settings, versions and machine. Weights that change afterwards are
    refused at the next call. Calls from several threads are safe, and use as many threads as
    ``torch.get_num_threads()`` says. A pickled model holds no graphs; it finds or makes them at its
    next call, which for int8 is possible where the graphs are in the cache.

    In int8 (post-training quantisation by NNCF) the ranges of all values are taken from calibration
    images, which run through the model once. A part that loses too much stays in fp32, and so does
    one that these images do not reach, with a warning.

    Args:
        model: A backbone, or a classifier, segmentor or detector of mmpretrain, mmseg or mmdet, in
            evaluation mode, on the CPU for ``'openvino'`` and ``'onnxruntime'``.
        runtime: ``'openvino'``, ``'onnxruntime'``, ``'inductor'`` (torch.compile, at the first
            call) or ``'eager'``, which folds only.
        precision: ``'fp32'`` or, where the runtime has it, ``'bf16'`` or ``'int8'``. Outputs are
            float32.
        sizes: Heights and widths of images to make graphs of their own for, which can be faster;
            images of other sizes take the graph of all sizes. Without effect in int8.
        inplace: Change ``model`` itself instead of a copy.
        calibration: For int8: typical images, of which the first 128 items are used. An item is
            what the model's ``test_step`` takes, as a data loader gives it
            (``{'inputs': ..., 'data_samples': ...}``), or of a backbone a normalised batch
            (B, C, H, W).

    Returns:
        The accelerated model; it refuses ``train()``.

    Raises:
        UserError: The runtime is not installed or has no such precision, the model is not on the
            CPU, or calibration data is missing or does not suit the model.
        RuntimeError: ``model`` is in training mode.

    Examples:
        >>> from mmvitconv.models import FCViT
        >>> from mmvitconv.runtime import accelerate
        >>> backbone = accelerate(FCViT("tiny").eval())  # doctest: +SKIP
    """
    check_runtime(runtime, precision)
    if model.training:
        raise RuntimeError("accelerate() takes a model in evaluation mode; call model.eval() first")
    devices = {str(t.device) for t in (*model.parameters(), *model.buffers())} - {"cpu"}
    if runtime in _GRAPHS and devices:
        raise UserError(
            f"the runtime {runtime!r} runs on the CPU, and the model is on {', '.join(devices)}; "
            "give the device cpu"
        )
    found = [vars(module).get("forward") for module in model.modules()]
    if others := {(n.runtime, n.precision) for n in found if isinstance(n, Network)}:
        if others == {(runtime, precision)}:
            return model if inplace else copy.deepcopy(model)
        raise RuntimeError("this model is accelerated already; give the one that it was made from")
    model = fold(model if inplace else copy.deepcopy(model), inplace=True)
    if (runtime, precision) == ("eager", "fp32"):
        return model
    images: list = []
    if precision == "int8":
        images = _read_calibration(calibration)
    key = _calibration_key(model, images) if images else ""
    parts = {}
    for name, module, _ in _dense_parts(model, None):
        parts[name] = Network(module, name, runtime, precision, key)
    shapes = [] if images else list(sizes or ())
    if runtime in _GRAPHS:
        if not all(part.is_known for part in parts.values()):
            _record(model, parts, images)
            _prepare(model, parts, TRACED_SHAPE, is_open=True)
        for shape in shapes:
            _prepare(model, parts, shape, is_open=False)
    for part in parts.values():
        part.install()
    return model


def _prepare(
    model: nn.Module, parts: dict[str, Network], shape: tuple[int, int], is_open: bool
) -> None:
    """Make the graphs of all parts, with what they get for images of a size."""
    # Other sizes tell a graph of all sizes from one that recorded a decision.
    others = [dict(_arguments(model, other, 1)) for other in _OTHER_SHAPES if is_open]
    for name, args in _arguments(model, shape, 2):
        parts[name].prepare(args, [given[name] for given in others if name in given], is_open)
    for part in parts.values():  # also those that nothing is known about
        (part.folder / "tried").touch()


def _read_calibration(calibration: Iterable[Any] | None) -> list:
    """Return the first items of calibration data."""
    if images := list(islice(calibration or (), MOST_IMAGES)):
        return images
    raise UserError(
        "the precision 'int8' takes the ranges of values from images, and there are none; give "
        "calibration=, an iterable of batches as the model's test_step takes them, or of tensors "
        "(B, C, H, W) for a backbone"
    )


def _calibration_key(model: nn.Module, images: Sequence[Any]) -> str:
    """Return a name for what each part of a model gets from calibration images."""
    found = hashlib.sha256(digest(model, "").encode())
    for leaf in pytree.tree_leaves(list(images)):
        if isinstance(leaf, (Tensor, np.ndarray)):
            add_tensor(found, torch.as_tensor(leaf))
    return found.hexdigest()


def _record(model: nn.Module, parts: Mapping[str, Network], images: Sequence[Any]) -> None:
    """Run a model on calibration images; each part keeps what it gets."""
    try:
        for part in parts.values():
            vars(part.module)["forward"] = part.record
        with torch.no_grad():
            for item in images:
                model.test_step(item) if isinstance(item, Mapping) else model(item)
    except Exception as error:  # models raise whatever they like
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the model does not take the calibration data ({type(error).__name__}: {reason}); "
            "give batches as its test_step takes them, or tensors (B, C, H, W) for a backbone"
        ) from error
    finally:
        for part in parts.values():
            del vars(part.module)["forward"]


def _arguments(model: nn.Module, shape: tuple[int, int], batch: int) -> Iterator[tuple[str, tuple]]:
    """Yield what each part gets for random images; nothing for parts that want something else."""
    generator = torch.Generator().manual_seed(0)
    convolutions = (m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))
    images = torch.randn(batch, next(convolutions, 3), *shape, generator=generator)
    with torch.no_grad():
        for name, _, args in _dense_parts(model, images):
            if args is not None:
                yield name, args


def _dense_parts(
    model: nn.Module, images: Tensor | None
) -> Iterator[tuple[str, nn.Module, tuple | None]]:
    """Yield name, module and arguments of the dense parts, in the order in which they run.

    Arguments are None without images, and where a part does not take what the one before gives.
    """
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, nn.Module):
        yield "model", model, None if images is None else (images,)
        return
    features: Any = images
    for name in ("backbone", "neck"):
        part = getattr(model, name, None)
        if isinstance(part, nn.Module):
            if _has_weights(part):
                yield name, part, None if features is None else (features,)
            features = _try(part, features)
    for name in ("rpn_head", "bbox_head", "decode_head"):
        part = getattr(model, name, None)
        if isinstance(part, nn.Module) and not isinstance(part, nn.ModuleList):
            known = features is not None and (images is None or _try(part, features) is not None)
            yield name, part, (features,) if known else None
    roi_head = getattr(model, "roi_head", None)
    for kind in ("bbox", "mask"):
        heads = _as_list(getattr(roi_head, f"{kind}_head", None))
        extractors = _as_list(getattr(roi_head, f"{kind}_roi_extractor", None))
        for index, head in enumerate(heads):
            rois = None
            if images is not None and index < len(extractors):
                size = getattr(extractors[index].roi_layers[0], "output_size", None)
                rois = size and (torch.randn(_ROIS, extractors[index].out_channels, *size),)
            yield f"roi_head.{kind}_head.{index}", head, rois


def _as_list(modules: nn.Module | None) -> list[nn.Module]:
    if modules is None:
        return []
    return list(modules) if isinstance(modules, nn.ModuleList) else [modules]


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _try(module: nn.Module, features: Any) -> Any:
    """Return what a module gives; None where it does not take these features."""
    if features is None:
        return None
    try:
        return module(features)
    except Exception:  # heads of other kinds want more than feature maps
        return None


class Network:
    """Stands for the ``forward`` of a module: one graph, or one for each size.

    Args:
        module: In evaluation mode.
        name: What messages call it.
        runtime: One of ``RUNTIMES``.
        precision: One of the runtime's.
        calibration: Key of the calibration data.
    """

    def __init__(
        self, module: nn.Module, name: str, runtime: str, precision: str, calibration: str = ""
    ) -> None:
        self.module, self.name = module, name
        self.runtime, self.precision, self.calibration = runtime, precision, calibration
        self._start()

    def _start(self) -> None:
        self._lock = threading.RLock()
        self._graphs: dict[Any, Graph | None] = {}  # None: this part runs in torch
        self._weights: _Weights | None = None
        self._compiled: Callable | None = None
        self._key: str | None = None
        self._recorded: list[tuple[tuple, list[Tensor]]] = []  # signatures and inputs

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if not key.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()

    def install(self) -> None:
        """Take the place of the module's ``forward``."""
        self.module.add_module("inference_only", InferenceOnly().eval())
        vars(self.module)["forward"] = self
        self._weights = _Weights(self.module)

    def plain(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module in torch."""
        return type(self.module).forward(self.module, *args, **kwargs)

    @property
    def folder(self) -> Path:
        """Where its graphs are kept."""
        if self._key is None:
            self._key = digest(self.module, f"{self.precision} {self.calibration}")
        return folder_of(self._key)

    @property
    def is_known(self) -> bool:
        """Whether an earlier start has tried to make the graph of all sizes."""
        return (self.folder / "tried").exists()

    def prepare(self, args: tuple, others: Sequence[tuple], is_open: bool) -> None:
        """Make a graph, unless it is there.

        Args:
            args: What it is traced with.
            others: What it is tried with besides.
            is_open: Whether it has to take any size.
        """
        leaves, spec = pytree.tree_flatten((args, {}))
        self._graph(leaves, spec, is_open, others)
        self._recorded.clear()

    def record(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module in torch, and keep what it gets while there is room."""
        leaves, spec = pytree.tree_flatten((args, kwargs))
        tensors = [leaf.float().clone() for leaf in leaves if isinstance(leaf, Tensor)]
        kept = [x for _, inputs in self._recorded for x in inputs]
        size = sum(x.nbytes for x in (*kept, *tensors))
        if all(x.numel() for x in tensors) and (not self._recorded or size <= MOST_RECORDED):
            self._recorded.append((_signature(leaves, spec, True), tensors))
        return self.plain(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph that takes these arguments."""
        self._check_weights()
        if self.runtime not in _GRAPHS:
            return self._run_torch(*args, **kwargs)
        leaves, spec = pytree.tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if any(t.numel() == 0 or not t.is_floating_point() for t in tensors) or not tensors:
            return self.plain(*args, **kwargs)
        for is_open in (False, True):
            graph = self._graphs.get(_signature(leaves, spec, is_open))
            if graph is not None:
                break
        else:
            graph = self._find(leaves, spec)
        if graph is None:
            return self.plain(*args, **kwargs)
        return graph.run([t.float() for t in tensors])

    def _find(self, leaves: list, spec: pytree.TreeSpec) -> Graph | None:
        """Return the graph of these arguments from the cache, or make one of their size."""
        with self._lock:
            graph = self._graph(leaves, spec, True, makes=False)
            return graph or self._graph(leaves, spec, False)

    def _graph(
        self,
        leaves: list,
        spec: pytree.TreeSpec,
        is_open: bool,
        others: Sequence[tuple] = (),
        makes: bool = True,
    ) -> Graph | None:
        """Return a graph: one that is at hand, of an earlier start, or a new one."""
        signature = _signature(leaves, spec, is_open)
        with self._lock:
            if signature in self._graphs:
                return self._graphs[signature]
            name = hashlib.sha256(repr(signature).encode()).hexdigest()[:16]
            path = self.folder / f"{name}.onnx"
            graph = None
            if path.with_suffix(".json").exists():
                quantised = path.with_suffix(".xml")
                file = quantised if quantised.exists() else path
                graph = Graph(file, self.runtime, self.precision, name)
            elif makes:
                try:
                    graph = self._make(path, leaves, spec, is_open, others)
                except Exception as error:  # exporters and runtimes raise whatever they like
                    reason = " ".join(str(error).split())[:200]
                    kind = "a graph of any size" if is_open else "a graph of this size"
                    rest = "there will be one for each size" if is_open else "it runs in torch"
                    warnings.warn(
                        f"accelerate: {self.name} ({type(self.module).__name__}) cannot be had as "
                        f"{kind}, so {rest} ({type(error).__name__}: {reason})",
                        stacklevel=2,
                    )
            if graph is None and (is_open or not makes):
                return None
            sized = [key for key in self._graphs if not key[0]]
            if not is_open and len(sized) >= MOST_SIZES:
                del self._graphs[sized[0]]
            self._graphs[signature] = graph
            return graph

    def _make(
        self,
        path: Path,
        leaves: list,
        spec: pytree.TreeSpec,
        is_open: bool,
        others: Sequence[tuple],
    ) -> Graph:
        """Trace, write, and compare with torch."""
        if self.precision == "int8" and not is_open:
            warnings.warn(
                f"accelerate: {self.name} ({type(self.module).__name__}) has no graph of any size "
                "in int8 here, so it runs in fp32; accelerate() with calibration data makes one",
                stacklevel=2,
            )
        flat = _Flat(self.module, leaves, spec)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        with torch.no_grad():
            expected = flat(*tensors)
        names = [f"input_{index}" for index in range(len(tensors))]
        outputs = [f"output_{index}" for index in range(len(expected))]
        axes = {
            name: {axis: f"{name}_{axis}" for axis in _open_axes(tensor, is_open)}
            for name, tensor in zip((*names, *outputs), (*tensors, *expected), strict=True)
        }
        draft = path.with_name(f"{path.stem}.{os.getpid()}.onnx")
        try:
            write_onnx(flat, draft, tensors, names, outputs, axes)
            facts = draft.with_suffix(".json")
            facts.write_text(json.dumps({"outputs": pytree.treespec_dumps(flat.outputs)}))
            exact = "fp32" if self.precision == "int8" else self.precision
            graph = Graph(draft, self.runtime, exact, path.stem)
            compare(pytree.tree_leaves(graph.run(tensors)), expected, exact)
            for other in others:
                more = [leaf for leaf in pytree.tree_leaves(other) if isinstance(leaf, Tensor)]
                with torch.no_grad():
                    found = pytree.tree_leaves(graph.run(more))
                    compare(found, flat(*more), exact)
            if self.precision == "int8" and is_open:
                graph = self._quantise(graph, _signature(leaves, spec, True))
            is_quantised = graph.path != draft
            for suffix in (".bin", ".xml") if is_quantised else (".onnx",):
                os.replace(draft.with_suffix(suffix), path.with_suffix(suffix))
            os.replace(facts, path.with_suffix(".json"))
        except Exception:
            forget_compiled(path)
            raise
        finally:
            for suffix in (".onnx", ".json", ".xml", ".bin"):
                draft.with_suffix(suffix).unlink(missing_ok=True)
        graph.path = path.with_suffix(graph.path.suffix)
        return graph

    def _quantise(self, graph: Graph, signature: tuple) -> Graph:
        """Return a graph in 8 bits, or the one that is given where that does not go well."""
        inputs = [given for recorded, given in self._recorded if recorded == signature]
        try:
            if not inputs:
                raise ValueError("no calibration image reaches it")
            small = graph.path.with_suffix(".xml")
            openvino.quantise(graph.path, small, inputs)
            forget_compiled(graph.path.with_stem(graph.name))
            quantised = Graph(small, self.runtime, self.precision, graph.name)
            threads = torch.get_num_threads()
            plain, rounded = (one.load(threads) for one in (graph, quantised))
            for given in inputs[:COMPARED]:
                compare(rounded(given), plain(given), self.precision)
            return quantised
        except Exception as error:  # NNCF raises whatever it likes
            forget_compiled(graph.path.with_stem(graph.name))
            reason = " ".join(str(error).split())[:200]
            warnings.warn(
                f"accelerate: {self.name} ({type(self.module).__name__}) stays in fp32 "
                f"({type(error).__name__}: {reason})",
                stacklevel=2,
            )
            return graph

    def _run_torch(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module in torch, compiled or not, in the precision asked for."""
        if self._compiled is None:
            with self._lock:
                compiled = self.plain
                if self.runtime == "inductor":
                    compiled = torch.compile(compiled)
                self._compiled = compiled
        if self.precision == "fp32":
            return self._compiled(*args, **kwargs)
        device = next((t.device.type for t in self.module.parameters()), "cpu")
        with torch.autocast(device, torch.bfloat16):
            out = self._compiled(*args, **kwargs)
        return pytree.tree_map_only(Tensor, lambda t: t.float(), out)

    def _check_weights(self) -> None:
        if self._weights is None:
            with self._lock:
                self._weights = self._weights or _Weights(self.module)
        elif self.runtime in _GRAPHS and not self._weights.are_same():
            raise RuntimeError(
                f"the weights of {self.name} have changed since accelerate() made its graphs; call "
                "accelerate() on the model with the new weights"
            )


class _Flat(nn.Module):
    """A module with tensors in a row as arguments and results."""

    def __init__(self, module: nn.Module, leaves: list, spec: pytree.TreeSpec) -> None:
        super().__init__()
        self.module, self.spec = module, spec
        self.constants = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        self.outputs: pytree.TreeSpec | None = None
        self.training = False

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the module."""
        leaves = list(self.constants)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        outs, self.outputs = pytree.tree_flatten(
            type(self.module).forward(self.module, *args, **kwargs)
        )
        if not all(isinstance(out, Tensor) for out in outs):
            raise TypeError("it gives something besides tensors")
        return tuple(outs)


class _Weights:
    """The weights of a module as they were, so that a change is seen.

    Of each tensor the place in memory, torch's count of changes, and the bytes of its largest
    value, which show a change that torch does not count (through ``.data`` or numpy).
    """

    def __init__(self, module: nn.Module) -> None:
        self.marks = [
            _Mark(slots, name, tensor)
            for part in module.modules()
            for slots in (part._parameters, part._buffers)
            for name, tensor in slots.items()
            if tensor is not None and tensor.is_floating_point() and tensor.numel()
        ]

    def are_same(self) -> bool:
        """Tell whether nothing has changed."""
        return all(mark.is_same() for mark in self.marks)


class _Mark:
    """One tensor of a module as it was. Hundreds are asked before each call, so it asks little."""

    __slots__ = ("content", "counts", "name", "place", "sample", "slots", "tensor", "version")

    def __init__(self, slots: dict[str, Tensor | None], name: str, tensor: Tensor) -> None:
        self.slots, self.name, self.tensor = slots, name, tensor
        self.counts = not tensor.is_inference()  # one made in inference mode counts no changes
        self.version = tensor._version if self.counts else 0
        self.place = tensor.data_ptr()
        flat = tensor.detach().as_strided((tensor.numel(),), (1,), tensor.storage_offset())
        largest = self.place + int(flat.abs().argmax()) * tensor.element_size()
        # read while the tensor is still in its place: the memory is alive
        self.sample = (ctypes.c_char * tensor.element_size()).from_address(largest)
        self.content = self.sample.raw

    def is_same(self) -> bool:
        """Tell whether the tensor has not changed."""
        tensor = self.tensor
        return (
            self.slots.get(self.name) is tensor
            and tensor.data_ptr() == self.place
            and not (self.counts and tensor._version != self.version)
            and self.sample.raw == self.content
        )


def _open_axes(tensor: Tensor, is_open: bool) -> tuple[int, ...]:
    """Return the axes of a tensor that may differ from call to call."""
    by_rank = {1: (), 2: (0,), 3: (0, 1), 4: (0, 2, 3)}
    return by_rank.get(tensor.dim(), (0,)) if is_open else (0,) * (tensor.dim() > 1)


def _signature(leaves: list, spec: pytree.TreeSpec, is_open: bool) -> tuple:
    """Return what the arguments of a graph have in common."""
    facts = []
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            axes = _open_axes(leaf, is_open)
            facts.append(tuple(-1 if i in axes else n for i, n in enumerate(leaf.shape)))
        else:
            facts.append(repr(leaf))
    return is_open, tuple(facts), spec
