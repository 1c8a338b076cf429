"""The wheel in an environment of its own, outside the repository."""

import json
import shutil
import sys
import tarfile
from functools import partial
from pathlib import Path

import processes
import pytest
from processes import ROOT, make_environment

pytestmark = pytest.mark.slow

STUDY = "analysis_tools/study_activation.py"
run = partial(processes.run, PYTHONPATH=None)  # outside the repository, without its paths
CONTENT = ("mmvitconv", "configs", "tools", "docs", "requirements")
FILES = ("setup.py", "pyproject.toml", "MANIFEST.in", "model-index.yml", "README.md", "LICENSE")
BUILD_SDIST = "import setuptools.build_meta as b; print(b.build_sdist({folder!r}))"
LOAD_ALL = """
import mmvitconv
from mmvitconv.engine.configuration import load_config
from mmvitconv.resources import list_configs, resource_root
for name, path in list_configs().items():
    assert load_config(path.stem).filename == str(path), name
    assert str(path).startswith(str(resource_root()))
print(len(list_configs()), mmvitconv.__file__)
"""
BUILD_FROM_MMDET = """
from mmdet.registry import MODELS
print(type(MODELS.build(dict(type='mmvitconv.FCViT', arch='tiny'))).__module__)
"""
COMPARE_CONFIGS = """
from mmengine.config import Config
whole = Config.fromfile('whole.py')
from mmvitconv.engine.configuration import load_config
assert whole.to_dict() == load_config('own.py').to_dict()
print(whole.train_cfg.max_epochs, whole.model.backbone.type.rpartition('.')[2])
"""
METAFILES = """
import yaml
from mmvitconv.resources import resource_root
root = resource_root()
for place in yaml.safe_load((root / 'model-index.yml').read_text())['Import']:
    content = yaml.safe_load((root / place).read_text())
    assert all((root / collection['README']).is_file() for collection in content['Collections'])
    assert all((root / model['Config']).is_file() for model in content['Models'])
print(root)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("wheel")


@pytest.fixture(scope="module")
def wheel(folder) -> Path:
    """The wheel, made from an sdist that was made from a copy: builds write beside the sources."""
    sources, dist = folder / "sources", folder / "dist"
    for name in CONTENT:
        shutil.copytree(
            ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
    for name in FILES:
        shutil.copy(ROOT / name, sources)
    code = BUILD_SDIST.format(folder=str(dist))
    name = run(sys.executable, "-c", code, folder=sources).stdout.splitlines()[-1]
    with tarfile.open(dist / name) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", dist)
    run(sys.executable, "-m", "pip", "wheel", unpacked, *options, folder=folder)
    (built,) = dist.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel, folder) -> Path:
    """An environment with the wheel; all else comes from this one, but not its start-up files."""
    python, _ = make_environment(folder / "env")
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--no-deps", "--no-index", "--quiet", wheel, folder=folder)
    return folder / "env"


@pytest.fixture
def python(environment, tmp_path):
    """A function that runs Python code or a script in the wheel's environment; gives its output."""

    def execute(*arguments: object) -> str:
        command = (environment / "bin" / "python", "-W", "ignore", *arguments)
        return run(*command, folder=tmp_path).stdout

    return execute


def test_everything_runs_from_the_wheel(python, environment):
    shipped = [path for path in ROOT.glob("configs/*/*.py") if path.parent.name != "_base_"]
    count, place = python("-c", LOAD_ALL).split()
    assert int(count) == len(shipped)
    assert place.startswith(str(environment))


def test_paths_of_the_metafiles_are_valid(python, environment):
    root = Path(python("-c", METAFILES).strip())
    assert root.name == ".mim"
    assert root.parent.name == "mmvitconv"
    assert environment in root.parents


def test_mmdet_builds_our_types_with_nothing_imported(python):
    assert python("-c", BUILD_FROM_MMDET).split() == ["mmvitconv.models.backbones.fcvit"]


def test_the_console_script(environment, tmp_path):
    command = (environment / "bin" / "mmvitconv", "list", "--family", "ParCResNet", "--json")
    (entry,) = json.loads(run(*command, folder=tmp_path).stdout)
    assert entry["arch"] == "50"
    assert entry["configs"]
    assert not list(tmp_path.iterdir())


def test_a_project_folder_needs_no_clone(python, environment, tmp_path):
    """A config on top of a shipped one, and written out for programs that do not know ours."""
    base = "mmvitconv::fcvit/maskrcnn_fcvit_tiny_nuclei.py"
    (tmp_path / "own.py").write_text(f"_base_ = {base!r}\ntrain_cfg = dict(max_epochs=3)\n")
    command = (environment / "bin" / "mmvitconv", "print-config", "own.py")
    (tmp_path / "whole.py").write_text(run(*command, folder=tmp_path).stdout)
    assert python("-c", COMPARE_CONFIGS).split() == ["3", "FCViT"]


def test_tools_run_from_the_wheel(python, environment, folder, tmp_path):
    (tools,) = (environment / "lib").glob("python*/site-packages/mmvitconv/.mim/tools")
    sources = folder / "sources" / "tools"
    ours = {path.relative_to(sources) for path in sources.rglob("*.py")}
    ours -= {path for path in ours if path.parts[0] == "studies"}
    assert {path.relative_to(tools) for path in tools.rglob("*.py")} == ours
    study = f"import runpy; runpy.run_path({str(tools / STUDY)!r}, run_name='__main__')"
    message = python("-c", f"try:\n    {study}\nexcept SystemExit as error:\n    print(error)")
    assert "needs a checkout" in message
    assert "usage: train.py" in python(tools / "train.py", "--help")
    assert python(tools / "misc/print_config.py", "fcvit_tiny_mnist").count("FCViT") == 1
    script = f"PYTHON={environment}/bin/python bash {tools}/dist_train.sh fcvit_tiny_mnist 1 --help"
    assert "usage: train.py" in run("bash", "-c", script, folder=tmp_path).stdout
