"""The command line ``mmvitconv COMMAND ...``: one module per command, imported when needed.

To add a command, add one line to :data:`COMMANDS` and write its module, which has

- a docstring: what ``--help`` says before the arguments,
- ``add_arguments(parser)``: adds the arguments to an :class:`argparse.ArgumentParser`,
- ``run(options)``: does the work; returns an exit code, or None for 0.

A command raises :class:`~mmvitconv.errors.UserError` for a mistake of the user and
:class:`UsageError` for a wrong command line. :func:`execute` is the only place that prints errors
and decides on exit codes; the scripts in ``tools/`` use it as well.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType

from mmvitconv.cli.interruption import INTERRUPTED, CtrlC
from mmvitconv.errors import AccidentError, UserError, describe_accident, message_of, root_cause
from mmvitconv.version import __version__

__all__ = ["COMMANDS", "UsageError", "execute", "main", "parse", "run", "speaks"]

LOCAL_RANK_VARIABLES = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK")

# name: its module, what it does
COMMANDS = {
    "doctor": ("mmvitconv.doctor", "what is installed, what is wrong, what fixes it"),
    "list": ("mmvitconv.cli.list", "all architectures with size, cost and published accuracy"),
    "info": ("mmvitconv.cli.info", "everything about one architecture, and its configs"),
    "weights": ("mmvitconv.cli.weights", "published weights by name: list, get, where"),
    "print-config": ("mmvitconv.cli.print_config", "a config with its bases and options merged"),
    "data": ("mmvitconv.cli.data", "a tiny real data set for a first run"),
    "init": ("mmvitconv.cli.init", "a config for your own images and labels"),
    "check": ("mmvitconv.cli.check", "the data of a config, as training would load them"),
    "train": ("mmvitconv.cli.train", "train a classifier, detector or segmentor"),
    "test": ("mmvitconv.cli.test", "evaluate a checkpoint"),
    "predict": ("mmvitconv.cli.predict", "pictures and JSON for an image or a folder"),
    "serve": ("mmvitconv.cli.serve", "a local web page that compares checkpoints"),
    "benchmark": ("mmvitconv.cli.benchmark", "speed and memory beside timm's models"),
    "calibrate": ("mmvitconv.cli.calibrate", "the fastest operators for this machine, measured"),
    "flops": ("mmvitconv.cli.flops", "parameters and multiply-adds of a config"),
    "export": ("mmvitconv.cli.export", "torch.export, ONNX or TorchScript, checked"),
    "convert": ("mmvitconv.cli.convert", "an original checkpoint in our layout"),
    "erf": ("mmvitconv.cli.erf", "picture: effective receptive fields"),
    "similarity": ("mmvitconv.cli.similarity", "picture: tokens against the global context"),
    "attention": ("mmvitconv.cli.attention", "picture: global-token attention"),
    "attention-stats": (
        "mmvitconv.cli.attention_stats",
        "pictures: how much attention depends on the query and the head",
    ),
    "gradcam": ("mmvitconv.cli.gradcam", "picture: where a class is seen"),
}


class UsageError(UserError):
    """The arguments do not fit together: the usage is printed before the message, exit code 2."""


def usage() -> str:
    """Return the list of commands."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "usage: mmvitconv COMMAND [arguments]",
            "",
            *(f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()),
            "",
            "mmvitconv COMMAND --help says more; mmvitconv --version",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The command line; None for ``sys.argv``.

    Returns:
        Exit code: 0, 1 after an error that the user can fix, 2 after a wrong command line, 130
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


def run(name: str, *arguments: str, program: str | None = None) -> int:
    """Run one command.

    Args:
        name: A key of :data:`COMMANDS`.
        *arguments: Its command line.
        program: Its name in the usage and before errors; default: ``mmvitconv NAME``.

    Returns:
        Exit code, see :func:`main`.

    Raises:
        SystemExit: After ``--help``, or with exit code 2 after a wrong command line.
    """
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(COMMANDS)}"
        print(f"mmvitconv: error: there is no command {name!r}; {hint}", file=sys.stderr)
        return 2
    # its --help, which takes a while to import, comes when Ctrl-C is looked after
    parser = argparse.ArgumentParser(program or f"mmvitconv {name}", add_help=False)
    options = argparse.Namespace(program=parser.prog, arguments=arguments)

    def work() -> int | None:
        module = _parse(name, parser, options)
        if getattr(options, "keep_memory", False):
            from mmvitconv.runtime.allocator import keep_freed_memory

            keep_freed_memory()
        return module.run(options)

    return execute(parser, work, options)


def parse(name: str, *arguments: str) -> argparse.Namespace:
    """Parse the command line of a command without running it.

    Args:
        name: A key of :data:`COMMANDS`.
        *arguments: Its command line.

    Returns:
        What the command's ``run`` takes: its options, all words as ``arguments`` and the name
        of the ``program``.

    Raises:
        SystemExit: The command line is wrong.
    """
    parser = argparse.ArgumentParser(f"mmvitconv {name}", add_help=False)
    options = argparse.Namespace(program=parser.prog, arguments=arguments)
    _parse(name, parser, options)
    return options


def execute(
    parser: argparse.ArgumentParser,
    work: Callable[[], int | None],
    options: argparse.Namespace | None = None,
) -> int:
    """Do the work of a program and turn its errors into one line and an exit code each.

    With an option ``--debug``, errors show their traceback instead. In a distributed run
    (``options.launcher``) the first process of each machine prints, the others are silent.
    After Ctrl-C, and after an accident of the machine, ``options.advice`` says how to go on.

    Args:
        parser: The program's parser; it knows its name and usage.
        work: Does everything, the parsing included.
        options: What the parser fills while ``work`` runs.

    Returns:
        Exit code: that of ``work`` (None counts as 0), 1 after an error, 130 after Ctrl-C,
        whatever became of it in ``work``.

    Raises:
        SystemExit: With exit code 2 after a :class:`UsageError`.
    """
    options = argparse.Namespace() if options is None else options

    def say_interrupted() -> None:
        if speaks(options):
            advice = _advice(options)
            output = sys.stdout if advice else sys.stderr
            print(f"\n{parser.prog}: interrupted{advice}", file=output, flush=True)

    ctrl_c = CtrlC(say_interrupted)
    try:
        ctrl_c.begin()
        code = work() or 0
        sys.stdout.flush()  # or Python would say what is wrong there, in its own way
        ctrl_c.finish(code)
    except BaseException as error:
        is_debugged = getattr(options, "debug", False)
        if ctrl_c.pressed or isinstance(error, KeyboardInterrupt):
            if is_debugged:
                raise
            ctrl_c.say()
            code = INTERRUPTED
        elif isinstance(error, UsageError):
            parser.error(str(error))
        elif isinstance(error, BrokenPipeError) and _reader_has_left():
            code = 128 + signal.SIGPIPE
        elif is_debugged or (mistake := _explained(error, options)) is None:
            raise
        else:
            if speaks(options) or mistake.of_one_process:
                hint = " (--debug shows the traceback)" if hasattr(options, "debug") else ""
                text = f"{parser.prog}: error: {message_of(mistake)}{hint}"
                print(text, file=sys.stderr, flush=True)
            code = 1
        ctrl_c.finish(code)
    finally:
        ctrl_c.end()
    return code


def _advice(options: argparse.Namespace) -> str:
    """Return how to go on as a sentence to append, '' where there is none."""
    return f". {options.advice}" if hasattr(options, "advice") else ""


def _explained(error: BaseException, options: argparse.Namespace) -> UserError | None:
    """Return what is shown for an exception, though a worker's death may be told meanwhile.

    PyTorch raises it out of a signal's handler, that is anywhere.
    """
    try:
        return _as_user_error(error, options)
    except RuntimeError as later:
        return _as_user_error(later, options)


def _as_user_error(error: BaseException, options: argparse.Namespace) -> UserError | None:
    """Return what is shown for an exception, None for its traceback."""
    cause = root_cause(error)
    if isinstance(cause, UserError):
        return cause
    if (package := _missing_package(cause)) is not None:
        return UserError(f"{package} is not installed; 'mmvitconv doctor' says what to install")
    accident = describe_accident(error)
    return None if accident is None else AccidentError(accident + _advice(options))


def _reader_has_left() -> bool:
    """Tell whether nobody reads the output any more, as in ``mmvitconv list | head -1``."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more
        return True
    return False


def speaks(options: argparse.Namespace) -> bool:
    """Tell whether this process prints for its machine.

    Args:
        options: Its ``launcher`` says how the processes were started, if there are several.

    Returns:
        True for a single process and for the first process of each machine.
    """
    ranks = [os.environ[name] for name in LOCAL_RANK_VARIABLES if name in os.environ]
    launcher = getattr(options, "launcher", "none")
    return launcher == "none" or not ranks or ranks[0] == "0"


def _parse(name: str, parser: argparse.ArgumentParser, options: argparse.Namespace) -> ModuleType:
    """Parse ``options.arguments`` as a command does; return its module."""
    command = import_module(COMMANDS[name][0])
    parser.description = command.__doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("-h", "--help", action="help", help="show this help message and exit")
    command.add_arguments(parser)
    parser.parse_args(options.arguments, options)
    return command


def _missing_package(error: BaseException) -> str | None:
    """Return the package of others that could not be found, None for any other error."""
    if not isinstance(error, ModuleNotFoundError):
        return None
    package = (error.name or "mmvitconv").partition(".")[0]
    return None if package == "mmvitconv" else package
