"""Command lines in the documentation: what they start, and whether that takes what they say."""

import argparse
import contextlib
import importlib.util
import io
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import timm

from mmvitconv import cli
from mmvitconv.engine.configuration import apply_options, load_config
from mmvitconv.resources import is_config
from mmvitconv.zoo.archs import match_arch

ROOT = Path(__file__).resolve().parents[1]
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*")
VALUES = {"FAMILY": "fcvit", "ARCH": "fcvit_tiny", "N": "2"}  # of placeholders with legal values
OURS = ("configs/", "tools/", "docs/", "tests/", "requirements/", "mmvitconv/")
# First words of programs that are only checked: they take minutes or several GPUs, wait for a
# browser, or change the environment or the repository.
ONLY_CHECKED = (
    *("make", "pip", "source", "pre-commit", "ruff", "pytest", "write"),
    *("train", "dist", "slurm", "chaos", "study", "compare", "benchmark", "export", "serve"),
)
BUILTINS = ("cat", "cd", "cp", "echo", "export", "ls", "mkdir", "source", "touch")


class DocumentationError(Exception):
    """A block is wrong; the message says where and how."""


def split(line: str) -> Iterator[list[str]]:
    """The simple commands of a line, as words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, "#"
    command: list[str] = []
    for word in lexer:
        if word in ("&&", "||", ";", "|"):
            yield command
            command = []
        else:
            command.append(word)
    yield command


def without_settings(words: Sequence[str]) -> list[str]:
    """The words behind ``NAME=value`` settings of the environment."""
    rest = list(words)
    while rest and re.match(r"\w+=", rest[0]):
        rest.pop(0)
    return rest


def program_of(words: Sequence[str]) -> tuple[str, list[str]]:
    """The name of the program that a command starts, and its arguments.

    For ``python tools/X.py``, ``bash tools/X.sh``, ``mmvitconv X`` and ``python -m X`` it is X.
    """
    name, *rest = without_settings(words)
    name = name.removeprefix(".venv/bin/").removeprefix(".venv-onedl/bin/")
    if name in ("python", "python3", "bash") and rest:
        if rest[0] == "-m":
            rest = rest[1:]
        name, *rest = rest
    if name.startswith("mmvitconv") and not name.startswith("mmvitconv.") and rest:
        name, *rest = (f"mmvitconv {rest[0]}", *rest[1:])
    return name, rest


def is_only_checked(words: Sequence[str]) -> bool:
    """Whether a command names placeholders, or is one of those that are never run here."""
    name, rest = program_of(words)
    stem = re.sub(r"^mmvitconv ", "", Path(name).stem)
    is_heavy = stem.split("_")[0] in ONLY_CHECKED
    return is_heavy or any(PLACEHOLDER.fullmatch(word) or "..." in word for word in rest)


def check_command(words: Sequence[str], folder: Path, block: object) -> None:
    """Check a command without running it: program, options, configs and files are real."""
    name, rest = program_of(words)
    rest = [VALUES.get(word, word) for word in rest if word != "..."]
    for word in (name, *rest):
        if word.startswith(OURS) and not (folder / word).exists():
            raise DocumentationError(f"{block}: {word} does not exist")
    if name == "mmvitconv":
        return
    if name.startswith("mmvitconv "):
        command = name.split()[1]
        if command not in cli.COMMANDS:
            raise DocumentationError(f"{block}: mmvitconv has no command {command!r}")
        parse(partial(cli.parse, command), rest, block)
    elif name.endswith(".py"):
        parse(main_of(folder / name), rest, block)
    elif re.search(r"tools/(dist|slurm)_(train|test)\.sh$", name):
        parse_launcher(name, rest, block)
    elif name == "make":
        check_make(rest, block)
    elif not is_known(name):
        raise DocumentationError(f"{block}: the program {name!r} is unknown to the test")


def is_known(name: str) -> bool:
    """Whether a program is a builtin of shells, a module, or installed with the tests."""
    if name in BUILTINS or name.endswith("bin/activate"):
        return True
    if "." in name:
        return importlib.util.find_spec(name) is not None
    return shutil.which(name, path=str(Path(sys.executable).parent)) is not None


class Parsed(BaseException):
    """A command line is legal; carries what argparse made of it."""


def parse(main: Callable[..., Any], arguments: list[str], block: object) -> None:
    """Let a program parse its arguments, and stop it there.

    Architectures that are named are looked up; a config is loaded, and the ``--cfg-options`` for it
    are applied.
    """
    original = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        raise Parsed(original(self, *args, **kwargs))

    errors = io.StringIO()
    argparse.ArgumentParser.parse_args = parse_args
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            main(*arguments)
    except Parsed as parsed:
        options = vars(parsed.args[0])
    except SystemExit as error:
        if error.code in (0, None):  # --help
            return
        raise DocumentationError(f"{block}: {errors.getvalue()}") from error
    else:
        raise DocumentationError(f"{block}: {arguments} reached no parser: {errors.getvalue()}")
    finally:
        argparse.ArgumentParser.parse_args = original
    for name in named_by(options):
        if is_config(name):
            apply_options(load_config(name), options.get("cfg_options"))
        elif not name.startswith("timm:"):
            match_arch(name)
        elif not timm.is_model(name.removeprefix("timm:")):
            raise DocumentationError(f"{block}: timm has no model {name!r}")


def named_by(options: Mapping[str, Any]) -> Iterator[str]:
    """The configs and architectures of a command line; no placeholders, and no files."""
    for key in ("config", "source", "model", "models", "arch"):
        values = options.get(key)
        for name in values if isinstance(values, list) else [values]:
            is_name = isinstance(name, str) and not name.endswith(".pth")  # serve takes pairs
            if is_name and not PLACEHOLDER.fullmatch(name):
                yield name


def main_of(script: Path) -> Callable[..., Any]:
    """A function that runs a script of tools/ with arguments."""

    def main(*arguments: str) -> None:
        before = sys.argv
        sys.argv = [str(script), *arguments]
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                spec = importlib.util.spec_from_file_location("__main__", script.resolve())
                module = importlib.util.module_from_spec(spec)
                sys.modules[f"page_{script.stem}"] = module  # dataclasses look here
                spec.loader.exec_module(module)
        finally:
            sys.argv = before

    return main


def parse_launcher(name: str, words: list[str], block: object) -> None:
    """Check ``dist_*.sh CONFIG [CHECKPOINT] GPUS ...`` and the like of slurm."""
    is_test = name.endswith("_test.sh")
    if "slurm" in name:
        # PARTITION JOB CONFIG (CHECKPOINT | WORK_DIR)
        config, second, *rest = words[2:]
        rest = [config, second, *rest] if is_test else [config, "--work-dir", second, *rest]
    else:
        place = 2 if is_test else 1
        if not words[place].isdigit():
            raise DocumentationError(f"{block}: {words[place]!r} is no number of processes")
        rest = words[:place] + words[place + 1 :]
    parse(partial(cli.parse, "test" if is_test else "train"), rest, block)


def check_make(words: Sequence[str], block: object) -> None:
    """Targets and variables exist in the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        name, equals, _ = word.partition("=")
        if not re.search(rf"^{name} ?\?=" if equals else rf"^{name}:", makefile, re.MULTILINE):
            raise DocumentationError(f"{block}: the Makefile has no {name!r}")
