"""Measure which form of the circular convolution is fastest on this machine, once.

mmvitconv calibrate [--threads N]

Takes one to two minutes. What is found is kept in the user's cache and used by every process that
starts later on this machine; without it a table of its kind of CPU is used. Nothing else should
run meanwhile.
"""

from __future__ import annotations

import argparse

from mmvitconv.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--threads", type=int, help="threads to measure with; default: as many as torch takes"
    )
    parser.add_argument(
        "--forget", action="store_true", help="remove what was measured: back to the shipped table"
    )


def run(options: argparse.Namespace) -> None:
    """Measure, keep and report."""
    import torch

    from mmvitconv.analysis.calibration import calibrate, store
    from mmvitconv.ops.machine import calibration_file, machine_name

    file = calibration_file()
    try:
        if options.forget:
            file.unlink(missing_ok=True)
            print(f"removed {file}")
            return
        if options.threads is not None:
            if options.threads < 1:
                raise UserError(f"--threads must be at least 1, got {options.threads}")
            torch.set_num_threads(options.threads)
        print(f"{machine_name()}: {torch.get_num_threads()} threads, at most two minutes")
        store(calibrate())
    except OSError as error:
        raise UserError(
            f"{file} cannot be written ({error.strerror or error}); set MMVITCONV_HOME to a folder "
            "that can be"
        ) from error
    print(f"wrote {file}; processes that start from now on use it")
