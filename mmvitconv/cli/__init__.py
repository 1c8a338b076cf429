"""The command line ``mmvitconv COMMAND ...``: one module here per command, loaded when asked for.

Every command is a function ``main(arguments) -> exit code``, so that the same can be done from
Python and from the scripts in ``tools/``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module

from mmvitconv.errors import UserError
from mmvitconv.version import __version__

INTERRUPTED = 130  # as shells have it

# name: where its function is, what it does
COMMANDS = {
    "doctor": ("mmvitconv.doctor:main", "what is installed, what is wrong, what mends it"),
    "list": ("mmvitconv.cli.list:main", "all architectures with size, cost and published accuracy"),
    "info": ("mmvitconv.cli.info:main", "everything about one architecture, and its configs"),
    "train": ("mmvitconv.cli.train:main", "train a classifier, detector or segmentor"),
    "test": ("mmvitconv.cli.test:main", "evaluate a checkpoint"),
    "predict": ("mmvitconv.cli.predict:main", "pictures and JSON for an image or a folder"),
    "serve": ("mmvitconv.cli.serve:main", "a local web page that compares checkpoints"),
    "benchmark": ("mmvitconv.cli.benchmark:main", "speed and memory beside timm's models"),
    "flops": ("mmvitconv.cli.flops:main", "parameters and multiply-adds of a config"),
    "export": ("mmvitconv.cli.export:main", "torch.export, ONNX or TorchScript, checked"),
    "convert": ("mmvitconv.cli.convert:main", "an original checkpoint in our layout"),
    "erf": ("mmvitconv.cli.erf:main", "picture: effective receptive fields"),
    "similarity": ("mmvitconv.cli.similarity:main", "picture: tokens against the global context"),
    "attention": ("mmvitconv.cli.attention:main", "picture: global-token attention"),
    "attention-stats": (
        "mmvitconv.cli.attention_stats:main",
        "pictures: how much attention depends on the query and the head",
    ),
    "gradcam": ("mmvitconv.cli.gradcam:main", "picture: where a class is seen"),
}


def usage() -> str:
    """Return the list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: mmvitconv COMMAND [arguments]",
            "",
            *lines,
            "",
            "mmvitconv COMMAND --help says more; mmvitconv --version",
        ]
    )


def load_command(name: str) -> Callable[[Sequence[str]], int]:
    """Import a command.

    Args:
        name: A key of :data:`COMMANDS`.

    Returns:
        Its function: arguments to exit code.
    """
    module, _, function = COMMANDS[name][0].partition(":")
    return getattr(import_module(module), function)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The command line; None for ``sys.argv``.

    Returns:
        Exit code: 0, 1 after an error that the user can mend, 2 after a wrong command line, 130
        after Ctrl-C.
    """
    # not list(...): once imported, the command of that name hides it in this module
    arguments = [*(sys.argv[1:] if arguments is None else arguments)]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    return run(*arguments)


def run(name: str, *arguments: str) -> int:
    """Run one command; an error that the user can mend becomes one sentence.

    Args:
        name: A key of :data:`COMMANDS`; another one is such an error.
        *arguments: Its command line.

    Returns:
        Exit code as of :func:`main`.
    """
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(COMMANDS)}"
        print(f"mmvitconv: error: there is no command {name!r}; {hint}", file=sys.stderr)
        return 2
    try:
        return load_command(name)(arguments)
    except UserError as error:
        print(f"mmvitconv {name}: error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        package = (error.name or "mmvitconv").partition(".")[0]
        if package == "mmvitconv":
            raise
        advice = "'mmvitconv doctor' says what to install"
        print(f"mmvitconv {name}: error: {package} is not installed; {advice}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nmmvitconv {name}: interrupted", file=sys.stderr)
        return INTERRUPTED
