"""The blocks of code in the documentation: how they are found, run and checked.

What the markers mean is said in CONTRIBUTING.md. Each page has a folder of its own, which looks
like the repository: files are links, configs a copy. Configs of the MM projects are there as well.
"""

import importlib
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml
from command_lines import ROOT, DocumentationError, check_command, is_only_checked, split
from mmengine.registry import MODELS, DefaultScope, Registry, root

from mmvitconv.engine.configuration import load_config
from mmvitconv.models.base import Backbone

PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/**/*.md", "configs/*/README.md")
FENCE = re.compile(r"^( *)(```+) *([^\s`]*)$")
MARKER = re.compile(r"^ *<!-- run: (.*?) -->$")
FILE = re.compile(r"# ([\w.-]+(?:/[\w.-]+)+\.py)\n")
SHELL, READ = ("bash", "shell", "console"), ("text", "bibtex")
DEMO = "configs/fcvit/maskrcnn_fcvit_tiny_nuclei.py"
PROJECTS = {"mmdet": "mmdetection", "mmseg": "mmsegmentation", "mmpretrain": "mmpretrain"}


@dataclass(frozen=True)
class Block:
    """A block of a page: its language, its code and what the marker before it says."""

    page: str
    line: int
    language: str
    code: str
    marker: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """All pages of the repository."""
    return sorted({path for pattern in PAGES for path in ROOT.glob(pattern)})


def blocks_of(text: str, page: str) -> list[Block]:
    """Find the fenced blocks of a page."""
    found, marker, opened = [], "", None
    for number, line in enumerate(text.splitlines(), 1):
        fence = FENCE.match(line)
        if opened is None:
            if fence:
                opened = (number, *fence.groups(), [])
            elif is_marker := MARKER.match(line):
                marker = is_marker[1]
            elif marker and line.strip():
                raise DocumentationError(f"{page}:{number}: a marker stands before no block")
        elif fence and fence[2] == opened[2] and not fence[3]:
            start, indent, _, language, lines = opened
            code = "\n".join(text.removeprefix(indent) for text in lines) + "\n"
            found.append(Block(page, start, language, code, marker))
            opened, marker = None, ""
        else:
            opened[4].append(line)
    if opened is not None:
        raise DocumentationError(f"{page}:{opened[0]}: this block does not end")
    return found


def all_blocks() -> list[Block]:
    """The blocks of all pages, in order."""
    return [
        block
        for path in pages()
        for block in blocks_of(path.read_text("utf-8"), path.relative_to(ROOT).as_posix())
    ]


def make_folder(folder: Path) -> Path:
    """Make a folder that looks like the repository to what is written on a page."""
    folder.mkdir(parents=True)
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name not in ("configs", "data", "work_dirs"):
            (folder / path.name).symlink_to(path)
    shutil.copytree(ROOT / "configs", folder / "configs", ignore=shutil.ignore_patterns("__py*"))
    (folder / "data").mkdir()
    for path in (ROOT / "data").iterdir():
        (folder / "data" / path.name).symlink_to(path)
    for package, project in PROJECTS.items():
        configs = Path(importlib.util.find_spec(package).origin).parent / ".mim/configs"
        shutil.copytree(configs, folder / project / "configs", copy_function=os.symlink)
    return folder


def add_demo(folder: Path) -> None:
    """Put a checkpoint where ``make demo`` leaves one; its weights are random."""
    config = load_config(str(ROOT / DEMO))
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = MODELS.build(config.model)
    path = folder / "work_dirs/demo/best_coco_segm_mAP_50_epoch_20.pth"
    path.parent.mkdir(parents=True)
    torch.save({"state_dict": model.state_dict(), "meta": {}}, path)


@dataclass
class Page:
    """Runs the blocks of a page in order: one folder, one namespace for Python."""

    folder: Path
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "page"})
    modules: dict[str, ModuleType] = field(default_factory=dict)
    done: list[Block] = field(default_factory=list)

    def close(self) -> None:
        """Forget the modules that the page has defined."""
        for name in self.modules:
            del sys.modules[name]

    def run(self, block: Block) -> None:
        """Run or check a block."""
        self.done.append(block)
        if block.marker not in ("", "full", "check"):
            raise DocumentationError(f"{block}: the marker 'run: {block.marker}' means nothing")
        if block.language in SHELL:
            self.run_shell(block)
        elif block.language == "python":
            self.run_python(block)
        elif block.language in ("yaml", "yml"):
            yaml.safe_load(block.code)
        elif block.language == "json":
            json.loads(block.code)
        elif block.language not in READ:
            raise DocumentationError(
                f"{block}: {block.language!r} cannot be run; output and formulas are ```text"
            )

    def run_python(self, block: Block) -> None:
        """Save the block if it names a file; build it if it is a config; else execute it."""
        named = FILE.match(block.code)
        is_config = re.search(r"^_base_ = ", block.code, re.MULTILINE)
        if is_config:
            name = named[1] if named else f"{Path(block.page).parent}/block_{block.line}.py"
            path = self.folder / name
            places = ("configs/", *PROJECTS.values(), "my_project/")
            if path.exists() or not name.startswith(places):
                raise DocumentationError(f"{block}: a config cannot be saved as {name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.code, "utf-8")
            build_config(path)
            return
        code = compile("\n" * block.line + block.code, block.page, "exec")
        if block.marker == "check":
            return
        if named:  # what is inside of it is looked at by what imports it
            name = named[1].removesuffix(".py").replace("/", ".")
            module = self.modules[name] = sys.modules[name] = ModuleType(name)
            exec(code, module.__dict__)
            return
        before = {name: id(value) for name, value in self.names.items()}
        exec(code, self.names)
        for name, value in list(self.names.items()):
            if before.get(name) != id(value):
                check_types(value)

    def run_shell(self, block: Block) -> None:
        """Check all commands of a block and run those that are cheap."""
        for line in logical_lines(block):
            commands = list(split(line))
            for words in commands:
                check_command(words, self.folder, block)
            if block.marker == "check":
                continue
            if block.marker != "full" and any(map(is_only_checked, commands)):
                continue
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", line],
                cwd=self.folder,
                env={
                    **os.environ,
                    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                    "OMP_NUM_THREADS": "1",
                },
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            if done.returncode:
                output = (done.stdout + done.stderr)[-3000:]
                raise DocumentationError(f"{block}: {line}\nexit code {done.returncode}\n{output}")


def logical_lines(block: Block) -> list[str]:
    """Lines of a shell, continued ones joined, comments left out; of ``console`` those with $."""
    lines = re.sub(r"\\\n\s*", " ", block.code).splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [line for line in lines if line.strip() and not line.startswith("#")]


def build_config(path: Path) -> None:
    """Load a config and build its model, without memory for the weights."""
    config = load_config(str(path))
    scope = config.default_scope
    with DefaultScope.overwrite_default_scope(scope), torch.device("meta"):
        MODELS.build(config.model)


def check_types(value: Any) -> None:
    """Look up what dicts with a ``type`` name; build backbones of ours without memory."""
    if isinstance(value, (list, tuple)):
        for item in value:
            check_types(item)
    if not isinstance(value, dict):
        return
    for item in value.values():
        check_types(item)
    kind = value.get("type")
    if not isinstance(kind, str):
        return
    cls = find_type(kind)
    if cls is None:
        raise DocumentationError(f"no registry has the type {kind!r}")
    arguments = {key: item for key, item in value.items() if key not in ("type", "_delete_")}
    inspect.signature(cls).bind_partial(**arguments)
    if inspect.isclass(cls) and issubclass(cls, Backbone):
        with torch.device("meta"):
            cls(**arguments)


def find_type(kind: str) -> Any:
    """What a ``type`` means, in MMEngine or in one of the projects; or None."""
    names = [kind] if "." in kind else [kind, *(f"{scope}.{kind}" for scope in PROJECTS)]
    for found in vars(root).values():
        if isinstance(found, Registry):
            for name in names:
                cls = found.get(name)
                if cls is not None:
                    return cls
    return None
