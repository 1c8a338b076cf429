"""Packaging of mmvitconv.

A wheel holds configs, tools and ``model-index.yml`` in ``mmvitconv/.mim``, where OpenMMLab's
``mim`` and :mod:`mmvitconv.resources` look for them. They are copied while it is built; the
source folder stays as it is.

Besides the package, an installation places one file, ``mmvitconv.pth``, beside it: Python runs its
line at every start. It imports nothing and takes 0.1 ms; it only registers who is asked when
``mmcv._ext`` is wanted and no compiled one is found. Without it an interpreter that has imported
nothing of ours could not build ``type='mmvitconv.FCViT'`` from mmdet's registry: mmengine imports
all of mmdet, and with it ``mmcv.ops``, before it looks at the type, and without compiled operators
that import needs our stand-in. ``MMVITCONV_NO_STARTUP=1`` turns it off.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import zipfile
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).resolve().parent

START_FILE = "mmvitconv.pth"
# A broken or removed mmvitconv must not disturb other programs.
START_CODE = """
if not os.environ.get("MMVITCONV_NO_STARTUP"):
    class MmvitconvStartUp:
        def find_spec(name, path=None, target=None):
            if name == "mmcv._ext":
                try:
                    from mmvitconv.compat import StandInFinder
                    return StandInFinder.find_spec(name)
                except Exception:
                    pass
    sys.meta_path.append(MmvitconvStartUp)
"""
START_LINE = f"import os, sys; exec({START_CODE!r})\n"

# What a wheel holds in mmvitconv/.mim, by path in the repository.
SHIPPED = (
    "model-index.yml",
    *("configs/**/*.py", "configs/**/*.yml", "configs/**/*.md"),
    *("tools/**/*.py", "tools/**/*.sh"),
)
LEFT_OUT = ROOT / "tools" / "studies"  # writes the reports in docs/studies


class BuildWithStartFile(build_py):
    """Put the start-up file beside the package, and ``.mim`` into it, where it is no editable."""

    def run(self) -> None:
        """Build the package, then write what is added to it."""
        super().run()
        if self.editable_mode:
            return
        Path(self.build_lib, START_FILE).write_text(START_LINE)
        # an earlier build may have left files that are no longer shipped
        shutil.rmtree(Path(self.build_lib, "mmvitconv", ".mim"), ignore_errors=True)
        for source, target in self._shipped():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Return all files that are built, the added ones included."""
        outputs = super().get_outputs(include_bytecode)
        if self.editable_mode:
            return outputs
        added = [Path(self.build_lib, START_FILE), *(target for _, target in self._shipped())]
        return [*outputs, *map(str, added)]

    def _shipped(self) -> list[tuple[Path, Path]]:
        """Return the files of ``.mim``: where each is, and where it goes."""
        folder = Path(self.build_lib, "mmvitconv", ".mim")
        files = sorted({path for pattern in SHIPPED for path in ROOT.glob(pattern)})
        return [
            (path, folder / path.relative_to(ROOT))
            for path in files
            if not path.is_relative_to(LEFT_OUT)
        ]


class EditableWithStartFile(editable_wheel):
    """Put the start-up file into the wheel of ``pip install -e .`` (PEP 660)."""

    def run(self) -> None:
        """Build the editable wheel, then add the start-up file and its line in RECORD."""
        super().run()
        wheel = max(Path(self.dist_dir).glob("*.whl"), key=lambda path: path.stat().st_mtime)
        with zipfile.ZipFile(wheel) as archive:
            members = [(info, archive.read(info)) for info in archive.infolist()]
        content = START_LINE.encode()
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record = f"{START_FILE},sha256={digest},{len(content)}\n".encode()
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(START_FILE, content)
            for info, data in members:
                is_record = info.filename.endswith(".dist-info/RECORD")
                archive.writestr(info, record + data if is_record else data)


def read_version() -> str:
    """Return the version from ``mmvitconv/version.py`` without importing the package."""
    text = (ROOT / "mmvitconv" / "version.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"', text, flags=re.MULTILINE).group(1)


def read_description() -> str:
    """Return the README, empty where it is not shipped."""
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.is_file() else ""


# OpenMMLab comes by extras only: its forks (onedl-*) bear other names, and a plain requirement of
# mmengine would install upstream's over the fork's files. Never combine [onedl] with the others.
# Ranges: what mmdet 3.3, mmseg 1.2 and mmpretrain 1.2 accept themselves, from the tested floor.
CORE = ["mmengine>=0.10.4,<1", "mmcv-lite>=2.1.0,<2.2", "setuptools<82"]
CLASSIFICATION = [*CORE, "mmpretrain>=1.2.0,<2", "timm>=1.0"]
DETECTION = [*CORE, "mmdet>=3.3.0,<4"]
SEGMENTATION = [*CORE, "mmsegmentation>=1.2.2,<2", "ftfy", "regex"]
WEIGHTS = ["gdown>=6.5,<7"]  # published weights on Google Drive
ENGINES = ["onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.3", "openvino>=2025.0", "nncf>=3.0"]
# What single commands of mmvitconv need, from the major version that was tested.
COMMANDS = {
    "serve": ["gradio>=6,<7"],
    "analysis": ["grad-cam>=1.5,<2", "matplotlib>=3.8", "timm>=1.0"],
    "export": ENGINES,
    "runtimes": ENGINES,
    "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.5,<10", "mkdocstrings[python]>=0.30"],
}
FONTS = ["noto-cjk-sans-jp-regular>=0.0.1", "manimgx-fonts>=2026.9"]  # names in any script
EXTRAS = {
    "cls": CLASSIFICATION,
    "det": DETECTION,
    "seg": SEGMENTATION,
    "all": list(dict.fromkeys([*CLASSIFICATION, *DETECTION, *SEGMENTATION, *WEIGHTS])),
    "onedl": [
        "onedl-mmengine>=0.10.12",
        "onedl-mmcv>=2.3.6",
        "onedl-mmpretrain>=1.3.6",
        "onedl-mmdetection>=3.5.1",
        "onedl-mmsegmentation>=1.4.2",
        "timm>=1.0",
        "ftfy",
        "regex",
        *WEIGHTS,
    ],
    **COMMANDS,
    "fonts": FONTS,
    "dev": [
        *dict.fromkeys(requirement for group in COMMANDS.values() for requirement in group),
        "hypothesis>=6.100",
        "playwright>=1.49",
        "pre-commit>=3.5",
        "pytest>=8",
        "pytest-xdist>=3.5",
        "ruff>=0.9",
        "segmentation-models-pytorch>=0.5",
    ],
}

setup(
    name="mmvitconv",
    version=read_version(),
    description="Dense-prediction backbones between ConvNets and vision Transformers for OpenMMLab",
    long_description=read_description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["mmvitconv", "mmvitconv.*"]),
    package_data={"mmvitconv.zoo": ["table.json"], "mmvitconv.weights": ["index.yml"]},
    install_requires=["torch>=2.6", "torchvision>=0.21"],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["mmvitconv=mmvitconv.__main__:main"]},
    cmdclass={"build_py": BuildWithStartFile, "editable_wheel": EditableWithStartFile},
    classifiers=[
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    zip_safe=False,
)
