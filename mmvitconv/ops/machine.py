"""What this machine is, and what was measured on it by ``mmvitconv calibrate``."""

import json
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from mmvitconv.resources import cache_home

_FILE = "calibration.json"
# Whether the CPU has instructions for bfloat16; torch's oldest releases cannot tell.
HAS_BFLOAT16: bool = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()


@cache
def cpu_kind() -> str:
    """Return ``'amx'`` for CPUs whose matrix units torch can use, else ``'avx512'``."""
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return "amx" if has_amx() else "avx512"


@cache
def machine_name() -> str:
    """Return the CPU's name and the instructions that torch uses on it."""
    name = platform.processor()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line for line in lines if line.startswith("model name")), name)
    return f"{name.rpartition(':')[2].strip()}, {torch.backends.cpu.get_cpu_capability()}"


def calibration_file() -> Path:
    """Return where the measurements of this machine are kept."""
    return cache_home() / _FILE


def read_calibration(operator: str) -> list[dict[str, Any]]:
    """Return the rules that were measured on this machine for an operator.

    Args:
        operator: Such as ``'circular_conv'``.

    Returns:
        The rules as dicts; none where nothing was measured, or on another machine.
    """
    with suppress(OSError, ValueError, KeyError, TypeError):
        stored = json.loads(calibration_file().read_text(encoding="utf-8"))
        if stored["machine"] == machine_name():
            return list(stored[operator])
    return []
