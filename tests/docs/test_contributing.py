"""CONTRIBUTING.md's example of a backbone works: the file, the config and the test."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from code_blocks import FILE, ROOT, blocks_of

pytestmark = pytest.mark.slow

# Put at the top of the example's own test, and of those of the contract.
REGISTER = """
import importlib.util, sys
import mmvitconv.models.backbones as package

name = "mmvitconv.models.backbones.plainnet"
spec = importlib.util.spec_from_file_location(name, sys.argv.pop(1))
module = sys.modules[name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
package.PlainNet = module.PlainNet

import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """The files of the example, by name."""
    folder = tmp_path_factory.mktemp("example")
    found = {}
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for block in blocks_of(text, "CONTRIBUTING.md"):
        named = FILE.match(block.code) if block.language == "python" else None
        if named:
            path = found[named[1]] = folder / Path(named[1]).name
            path.write_text(block.code, "utf-8")
    return found


def test_one_file_one_config_one_test(files):
    assert [Path(name).parts[0] for name in files] == ["mmvitconv", "configs", "tests"]


def test_its_own_test_and_the_contract(files):
    module = files["mmvitconv/models/backbones/plainnet.py"]
    own = files["tests/models/backbones/test_plainnet.py"]
    # Compilation and export are slow; the config is built by test_code_blocks.py.
    chosen = "test_plainnet or PlainNet and not compile and not export"
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-c", REGISTER, module, own),
            *("tests/models/backbones/test_contract.py", "-k", chosen),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert int(passed[1]) > 20, "the contract has found the example"


def test_it_has_the_style_of_the_package(files):
    ruff = [sys.executable, "-m", "ruff"]
    options = ["--config", str(ROOT / "pyproject.toml")]
    paths = [str(path) for name, path in files.items() if not name.startswith("configs")]
    for command in (["check", "--ignore=D100,D103,I001"], ["format", "--check"]):
        done = subprocess.run(
            [*ruff, *command, *options, *paths], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
