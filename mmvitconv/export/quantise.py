"""Linear layers of an ONNX file in 8 bits."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from mmvitconv.analysis.timing import take_turns
from mmvitconv.errors import UserError
from mmvitconv.export.graphs import load_runner, quiet

__all__ = ["Quantised", "compare_quantised", "quantise"]

# Convolutions stay in float32: their activations would need a calibrated range.
_OPERATORS = ("MatMul", "Gemm")


@dataclass(frozen=True)
class Quantised:
    """An 8-bit file beside its float32 original."""

    size: float  # bytes of the file over those of the original
    latency: float  # median time of a call over that of the original; below 1 is faster
    relative: float  # largest difference of any output over the largest value
    cosine: float  # least cosine between the outputs of both, 1 for equal directions
    agreement: float | None  # share of images with the same largest logit; None for feature maps

    def __str__(self) -> str:
        """Return one sentence."""
        agreement = "" if self.agreement is None else f", same class for {self.agreement:.0%}"
        return (
            f"int8: {self.size:.2f} of the size, {self.latency:.2f} of the time, outputs differ by "
            f"{self.relative:.1%} of the largest value (cosine {self.cosine:.4f}{agreement})"
        )


def quantise(source: Path, path: Path) -> None:
    """Write a copy of an ONNX file with 8-bit weights; activations are quantised as they come.

    Args:
        source: File in float32.
        path: File to write.

    Raises:
        UserError: onnxruntime cannot quantise it.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with quiet(), tempfile.TemporaryDirectory() as scratch:
        # Weights are transposed in the graph, and only constants can be quantised.
        folded = Path(scratch) / "folded.onnx"
        try:
            quant_pre_process(str(source), str(folded), skip_symbolic_shape=True)
            # Shapes that the exporter noted for values in between may be those of the trace: the
            # quantiser stops at the contradiction, and infers them itself without.
            model = onnx.load(folded)
            del model.graph.value_info[:]
            onnx.save(model, folded)
            sizes = {weight.name: len(weight.dims) for weight in model.graph.initializer}
            quantize_dynamic(
                str(folded),
                str(path),
                op_types_to_quantize=list(_OPERATORS),
                per_channel=True,
                weight_type=QuantType.QInt8,
                # one scale a channel is for matrices; the others are no weights of layers
                nodes_to_exclude=[
                    node.name
                    for node in model.graph.node
                    if node.op_type == "MatMul" and sizes.get(node.input[1], 2) != 2
                ],
            )
            load_runner(path, "onnx")
        except Exception as error:  # whatever onnxruntime raises
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"onnxruntime cannot quantise this model, leave --int8 out: {reason}"
            ) from error


def compare_quantised(source: Path, path: Path, images: Tensor, rounds: int = 7) -> Quantised:
    """Run both files on the same images, in turns.

    Args:
        source: File in float32.
        path: File in 8 bits.
        images: A batch that both take.
        rounds: Calls of each that are timed.
    """
    threads = torch.get_num_threads()
    plain, small = (load_runner(file, "onnx", threads) for file in (source, path))
    expected, outs = plain(images), small(images)
    times = take_turns({"plain": lambda: plain(images), "small": lambda: small(images)}, rounds)
    flat = [[out.flatten().double() for out in several] for several in (outs, expected)]
    pairs = list(zip(*flat, strict=True))
    relative = max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-12)) for a, b in pairs)
    cosine = min(float(torch.cosine_similarity(a, b, dim=0)) for a, b in pairs)
    agreement = None
    if len(outs) == 1 and outs[0].dim() == 2:
        agreement = float((outs[0].argmax(1) == expected[0].argmax(1)).double().mean())
    size = path.stat().st_size / source.stat().st_size
    latency = median(times["small"]) / median(times["plain"])
    return Quantised(size, latency, relative, cosine, agreement)
