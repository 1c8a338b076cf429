"""Run the numerical tests under other instruction sets and numbers of threads.

Usage: python tests/cpus.py [--quick] [PYTEST ARGUMENT ...]

PyTorch, oneDNN and MKL choose their kernels by what the CPU has, and each kernel adds in its own
order. All of them can be told to use less, so that one machine stands for many; what a machine
lacks is left out by the libraries themselves. A test that is red here and green elsewhere has a
tolerance that is one machine's rounding.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CPUS = {
    "SSE, one thread": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "MKL_CBWR": "COMPATIBLE",
        "OMP_NUM_THREADS": "1",
    },
    "AVX2, two threads": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "MKL_CBWR": "AVX2",
        "OMP_NUM_THREADS": "2",
    },
    "AVX-512 without bfloat16, one thread": {
        "ATEN_CPU_CAPABILITY": "avx512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
        "OMP_NUM_THREADS": "1",
    },
    "all the machine has, two threads": {"OMP_NUM_THREADS": "2"},
}
PARTS = ["tests/ops", "tests/models", "tests/weights", "tests/runtime"]
# Of the first two instruction sets, what takes about a minute each.
QUICK_PARTS = ["tests/ops", "tests/models/layers", "tests/models/necks", "tests/runtime"]


def main(arguments: list[str]) -> int:
    """Run pytest once for each instruction set; gives the number of those that were red."""
    quick = "--quick" in arguments
    parts = [part for part in (QUICK_PARTS if quick else PARTS) if (ROOT / part).is_dir()]
    options = ["-n", "auto", "--maxprocesses=4", "-m", "not slow", "-p", "no:cacheprovider"]
    options += [argument for argument in arguments if argument != "--quick"]
    red = []
    for name, environment in list(CPUS.items())[: 2 if quick else None]:
        print(f"{name}: {' '.join(f'{k}={v}' for k, v in environment.items())}", flush=True)
        command = [sys.executable, "-m", "pytest", *options, *parts]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=False)
        red += [name] if done.returncode else []
    print(f"red: {'; '.join(red)}" if red else "green under every instruction set", flush=True)
    return len(red)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
