"""Files from strangers at every door: one sentence, nothing run, no more memory than their size."""

import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from families import FAMILIES, shallow
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.runner import BaseLoop, CheckpointLoader
from oracles.fcvit import OracleFCViT
from torch import nn
from weights.broken_files import OF_ANOTHER_MODEL, UNFIT, UNREADABLE, BrokenFile

from mmvitconv.cli.convert import convert_file
from mmvitconv.engine.checkpoint import SafeCheckpointHook
from mmvitconv.errors import CheckpointError
from mmvitconv.models import FCViT
from mmvitconv.weights import adapt_checkpoint, check_match, check_values, load_backbone, load_file
from mmvitconv.weights import files as files_module
from mmvitconv.zoo.loading import load_model

ROOT = Path(__file__).resolve().parents[2]
ARCH = {"depths": (1, 2, 1, 1), "embed_dims": (16, 32, 64, 128), "mlp_ratios": (4, 4, 2, 2)}
ALL_BROKEN = {**UNREADABLE, **UNFIT, **OF_ANOTHER_MODEL}
MODEL = {
    "type": "mmpretrain.ImageClassifier",
    "backbone": {"type": "mmvitconv.FCViT", "arch": ARCH, "out_indices": (3,)},
    "neck": {"type": "mmpretrain.GlobalAveragePooling"},
    "head": {"type": "mmpretrain.LinearClsHead", "num_classes": 6, "in_channels": 128},
}


def build() -> nn.Module:
    return MMENGINE_MODELS.build(Config(MODEL)._cfg_dict)


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    return build()


@pytest.fixture(scope="module")
def ours(classifier: nn.Module) -> dict[str, Any]:
    """An honest checkpoint of a run."""
    run = {"meta": {"epoch": 1, "iter": 1}, "message_hub": {}, "optimizer": {"state": {}}}
    return {**run, "state_dict": dict(classifier.state_dict())}


@pytest.fixture(scope="module")
def theirs() -> dict[str, Any]:
    """An honest checkpoint of the original authors."""
    network = OracleFCViT([1, 2, 1, 1], [16, 32, 64, 128], [4, 4, 2, 2], num_classes=6)
    return {"state_dict": dict(network.state_dict()), "epoch": 300}


class Loop(BaseLoop):
    """Makes the hook see a training run."""

    def __init__(self) -> None:
        pass

    def run(self) -> None:
        pass


def through_runner(path: Path, model: nn.Module, training: bool, resume: bool) -> None:
    """What MMEngine's runner does for load_from, --resume and tools/test.py."""
    checkpoint = CheckpointLoader.load_checkpoint(str(path), map_location="cpu")
    runner = SimpleNamespace(
        model=model,
        _resume=resume,
        _load_from=str(path),
        cfg=Config({}),
        _train_loop=Loop() if training else {},
        logger=MMLogger.get_current_instance(),
    )
    # what a file says about its run has tests of its own
    with patch("mmvitconv.engine.checkpoint.check_run_state", lambda *_: []):
        SafeCheckpointHook().after_load_checkpoint(runner, checkpoint)


def through_other_module(path: Path, model: nn.Module) -> None:
    """``init_cfg`` of a module of another package."""
    module = BaseModule(init_cfg={"type": "Pretrained", "checkpoint": str(path)})
    module.part = nn.Linear(2, 2)
    module.init_weights()


def through_our_init_cfg(path: Path, model: nn.Module) -> None:
    FCViT(ARCH, init_cfg={"type": "Pretrained", "checkpoint": str(path)}).init_weights()


def through_loader(path: Path, model: nn.Module) -> None:
    load_model(Config({"default_scope": "mmpretrain", "model": MODEL}), path, device="cpu")


def through_converter(path: Path, model: nn.Module) -> None:
    target = path.with_name("converted.pth")
    try:
        convert_file("fcvit", path, target)
    finally:
        assert not target.exists()


DOORS: dict[str, Callable[[Path, nn.Module], Any]] = {
    "load_file": lambda path, model: load_file(path),
    "load_backbone": lambda path, model: load_backbone(FCViT(ARCH), str(path)),
    "our init_cfg": through_our_init_cfg,
    "any init_cfg": through_other_module,
    "load_from": lambda path, model: through_runner(path, model, True, False),
    "resume": lambda path, model: through_runner(path, model, True, True),
    "test": lambda path, model: through_runner(path, model, False, False),
    "load_model": through_loader,
    "converter": through_converter,
}
LOADS_WEIGHTS = [door for door in DOORS if door not in ("load_file", "any init_cfg")]


def assert_refused(broken: BrokenFile, path: Path, door: str, model: nn.Module) -> None:
    with pytest.raises(CheckpointError, match=broken.says) as caught:
        DOORS[door](path, model)
    sentence = str(caught.value)
    assert str(path) in sentence or door == "load_file"
    assert "\n" not in sentence
    assert len(sentence) < 1500
    assert "weights_only" not in sentence
    assert not path.with_name("marker").exists()


def content_for(door: str, ours: dict, theirs: dict) -> dict:
    return theirs if door == "converter" else ours


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.usefixtures("safe_loading")
def test_unreadable_files_are_refused(
    name: str, classifier: nn.Module, ours: dict, tmp_path: Path, count: Callable
) -> None:
    count("broken checkpoints refused at every door")
    path = tmp_path / f"bad{UNREADABLE[name].suffix}"
    UNREADABLE[name].write(path, ours, tmp_path / "marker")
    for door in DOORS:
        assert_refused(UNREADABLE[name], path, door, classifier)


@pytest.mark.parametrize("name", [name for name, broken in UNREADABLE.items() if broken.armed])
def test_files_with_code_are_armed(name: str, ours: dict, tmp_path: Path) -> None:
    """Or the test above would prove nothing."""
    marker = tmp_path / "marker"
    UNREADABLE[name].write(tmp_path / "bad.pth", ours, marker)
    assert not marker.exists()
    with suppress(Exception):  # of the reader, after the code has run
        torch.load(tmp_path / "bad.pth", weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("name", [*UNFIT, *OF_ANOTHER_MODEL])
@pytest.mark.usefixtures("safe_loading")
def test_unfit_weights_are_refused(
    name: str, classifier: nn.Module, ours: dict, theirs: dict, tmp_path: Path, count: Callable
) -> None:
    count("broken checkpoints refused at every door")
    broken = ALL_BROKEN[name]
    for door in LOADS_WEIGHTS:
        if door != "converter" or name in UNFIT:
            broken.write(tmp_path / "bad.pth", content_for(door, ours, theirs), tmp_path)
            assert_refused(broken, tmp_path / "bad.pth", door, classifier)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.usefixtures("safe_loading")
def test_honest_files_pass_every_door(
    door: str, classifier: nn.Module, ours: dict, theirs: dict, tmp_path: Path
) -> None:
    """Or refusing everything would pass, too."""
    for legacy in (False, True):
        path = tmp_path / f"good_{legacy}.pth"
        content = content_for(door, ours, theirs)
        if door == "any init_cfg":
            content = {"state_dict": {"part.weight": torch.ones(2, 2), "part.bias": torch.ones(2)}}
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        if door == "converter":
            target = path.with_suffix(".converted")
            convert_file("fcvit", path, target)
            load_backbone(FCViT(ARCH), str(target))
        else:
            DOORS[door](path, classifier)


def test_negative_variances_are_refused(tmp_path: Path) -> None:
    model = FAMILIES["ConvMixer"](shallow("ConvMixer"))
    state = model.state_dict()
    key = next(key for key in state if key.endswith("running_var"))
    state[key][0] = -1
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=f"negative variances, which .*{key}"):
        load_backbone(model, str(tmp_path / "file.pth"))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_refuses_nan_and_other_families(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = FAMILIES[family](shallow(family))
    state = model.state_dict()
    path = tmp_path / "file.pth"
    torch.save({f"backbone.{key}": value for key, value in state.items()}, path)
    load_backbone(model, str(path))
    names = list(FAMILIES)
    other = names[names.index(family) - 1]
    with pytest.raises(CheckpointError, match="does not belong"):
        load_backbone(FAMILIES[other](shallow(other)), str(path))
    keys = [key for key, value in state.items() if value.is_floating_point()]
    for key in (keys[0], keys[len(keys) // 2], keys[-1]):
        bad = state[key].clone()
        bad.view(-1)[0] = float("nan")
        torch.save({**state, key: bad}, path)
        with pytest.raises(CheckpointError, match=f"NaN or infinity in 1 of .*{key}"):
            load_backbone(model, str(path))


@pytest.mark.slow
def test_memory_stays_in_proportion_to_the_file(ours: dict, tmp_path: Path) -> None:
    """Each file is read in a process that may not take much more than it has."""
    for name, broken in UNREADABLE.items():
        if name != "pipe":
            broken.write(tmp_path / f"{name}{broken.suffix}", ours, tmp_path / "marker")
    script = """
import resource, sys, torch
from pathlib import Path
from safetensors.torch import load_file as _
from mmvitconv.errors import CheckpointError
from mmvitconv.weights import load_file

def used():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = virtual + 768 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sorted(Path(sys.argv[1]).iterdir()):
    before = used()
    try:
        load_file(path)
    except CheckpointError as error:
        while error is not None:
            if isinstance(error, MemoryError) or "alloc" in str(error):
                print(path.name, "asks for memory:", error)
            error = error.__cause__
    else:
        print(path.name, "was read")
    grown = used() - before
    size = path.stat().st_size
    if grown > 3 * size + 200e6:
        print(f"{path.name} of {size} bytes took {grown} bytes")
"""
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
    )
    assert (result.returncode, result.stdout) == (0, ""), result.stderr[-2000:]


def test_text_that_mmengine_would_run_is_dropped(ours: dict, tmp_path: Path) -> None:
    """MMEngine's runner executes ``meta['config']`` as a config file when it resumes."""
    marker = tmp_path / "marker"
    text = f"__import__('os').mkdir({str(marker)!r})\n"
    checkpoint = {**ours, "meta": {**ours["meta"], "config": text, "cfg": "a = 1"}}
    meta = adapt_checkpoint(checkpoint, build())["meta"]
    assert meta == {**ours["meta"], "cfg": "a = 1"}
    assert not marker.exists()
    Config.fromstring(text, file_format=".py")
    assert marker.exists()


PRECISIONS = [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_weights_of_every_precision_are_compared(dtype: torch.dtype, tmp_path: Path) -> None:
    """ConvMixer looks at the signs of its statistics, which 8 bits do not offer."""
    state = {
        k: v.to(dtype) if v.is_floating_point() else v for k, v in _convmixer().state_dict().items()
    }
    torch.save(state, tmp_path / "a.pth")
    model = _convmixer()
    load_backbone(model, str(tmp_path / "a.pth"))
    key = next(iter(state))
    assert torch.equal(model.state_dict()[key], state[key].to(torch.float32))


def _convmixer() -> nn.Module:
    model = FAMILIES["ConvMixer"](shallow("ConvMixer"))
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if key.endswith("running_mean"):
                value.uniform_(-1, 1)  # as with GELU
    return model


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_other_precisions_are_converted(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {k: v.to(dtype) for k, v in FCViT(ARCH).state_dict().items()}
    torch.save(state, tmp_path / "a.pth")
    model = FCViT(ARCH, init_cfg={"type": "Pretrained", "checkpoint": str(tmp_path / "a.pth")})
    model.init_weights()
    for key, value in model.state_dict().items():
        assert value.dtype == FCViT(ARCH).state_dict()[key].dtype
        assert torch.equal(value, state[key].to(value.dtype))


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("phase", torch.ones(2, dtype=torch.complex64))


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("mask", torch.full((2,), float("-inf")), None),  # such buffers are meant to be
        ("mean", torch.tensor([0.0, float("inf")]), "infinity in 1 of 5 entries.*mean"),
        ("weight", torch.tensor([0.0, float("nan")]), "infinity in 1 of 5 entries.*weight"),
        ("phase", torch.tensor([1, complex("nan")]), "phase"),
        ("count", torch.tensor(3.0), None),
        ("count", torch.tensor(float("nan")), "count"),
        ("count", torch.tensor(3j), "count is complex64, but int64 is needed"),
        ("phase", torch.ones(2), None),
        ("weight", torch.ones(2, requires_grad=True), None),
        ("weight", torch.ones(2).to_sparse(), "weight is sparse"),
        ("weight", torch.ones(2, device="meta"), "weight is without values"),
        ("weight", torch.full((2,), 3e38), None),  # their sum is infinite, they are not
    ],
)
def test_values(key: str, value: torch.Tensor, error: str | None) -> None:
    state = {**Masked().state_dict(), key: value}
    if error is None:
        check_match(state, Masked())
        Masked().load_state_dict(state)
    else:
        with pytest.raises(CheckpointError, match=error):
            check_match(state, Masked())


def test_a_diverged_model_does_not_make_nan_legal() -> None:
    model = Masked()
    with torch.no_grad():
        model.weight.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="weight"):
        check_match(model.state_dict(), model)


def test_head_is_checked_where_it_is_loaded_and_ignored_where_not(
    classifier: nn.Module, ours: dict
) -> None:
    state = dict(ours["state_dict"])
    state["head.fc.weight"] = torch.full_like(state["head.fc.weight"], float("nan"))
    with pytest.raises(CheckpointError, match=r"head\.fc\.weight"):
        check_match(state, classifier, scope="backbone")
    state["head.fc.weight"] = state["head.fc.weight"].repeat(2, 1)  # of other classes
    state["head.fc.bias"] = state["head.fc.bias"].repeat(2)
    check_match(state, classifier, scope="backbone")


def test_shapes_are_compared_before_values_are_read() -> None:
    """A view of terabytes would take minutes to read."""
    state = {**Masked().state_dict(), "weight": torch.ones(1).expand(10**12)}
    with pytest.raises(CheckpointError, match="another size"):
        check_match(state, Masked())
    check_values(state, Masked())


def test_a_file_that_may_not_be_read(
    ours: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", "x")

    torch.save(ours, tmp_path / "a.pth")
    monkeypatch.setattr(files_module, "inspect_file", deny)  # root may read everything
    with pytest.raises(CheckpointError, match=r"a\.pth' cannot be read \(Permission denied\)"):
        load_file(tmp_path / "a.pth")


@pytest.mark.parametrize("path", ["a\0b", "~nobody_of_this_name/a.pth", "x" * 5000, ""])
def test_paths_that_are_none(path: str) -> None:
    with pytest.raises(CheckpointError, match="give the path of a local file"):
        load_file(path)


def test_a_web_page_in_the_cache_is_named_with_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.pth").write_text("<html>")
    monkeypatch.setattr(files_module, "fetch", lambda address: tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"web page.*https://a\.b/c\.pth; delete it"):
        load_file("https://a.b/c.pth")


def test_layers_without_end_in_an_original_layout(theirs: dict) -> None:
    state = dict(theirs["state_dict"])
    state["network.0.99999999999.norm1.weight"] = torch.ones(1)
    with pytest.raises(CheckpointError, match="no fcvit has so many layers"):
        adapt_checkpoint(state, FCViT(ARCH))


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_with_words_for_numbers(family: str) -> None:
    model = FAMILIES[family](shallow(family))
    odd = [f"{key.partition('.')[0]}{tail}" for key in model.state_dict() for tail in (".x.y", ".")]
    with pytest.raises(CheckpointError, match="unexpected"):
        check_match(
            {**model.state_dict(), **dict.fromkeys(odd, torch.ones(1))}, model, scope="backbone"
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["model_converters/convert_official.py", "fcvit", "BAD", "TARGET"], "would run"),
        (["test.py", "configs/fcvit/fcvit_tiny_mnist.py", "BAD"], "would run"),
        (["train.py", "configs/fcvit/fcvit_tiny_mnist.py", "--resume", "BAD"], "would run"),
        (
            [
                *("misc/demo_report.py", "configs/fcvit/maskrcnn_fcvit_tiny_nuclei.py", "BAD"),
                *("--out-dir", "TARGET"),
            ],
            "would run",
        ),
    ],
    ids=lambda value: Path(value[0]).stem if isinstance(value, list) else "",
)
@pytest.mark.usefixtures("mnist_root", "nuclei_root")
def test_commands_end_with_one_line_and_exit_code_1(
    command: list[str], says: str, ours: dict, tmp_path: Path
) -> None:
    bad, marker = tmp_path / "bad.pth", tmp_path / "marker"
    UNREADABLE["code_system"].write(bad, ours, marker)
    places = {"BAD": str(bad), "TARGET": str(tmp_path / "target")}
    work = ["--work-dir", str(tmp_path / "work")] if command[0] in ("test.py", "train.py") else []
    result = subprocess.run(
        [sys.executable, f"tools/{command[0]}", *(places.get(p, p) for p in command[1:]), *work],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 1, result.stderr[-2000:]
    lines = [line for line in result.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert str(bad) in lines[0]
    assert says in lines[0]
    assert "Traceback" not in result.stderr + result.stdout
    assert not marker.exists()


SMALL = {
    "state_dict": {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)},
    "meta": {"epoch": 1, "time": "now", "list": [1, 2.5, None, (True, "x")]},
}


def _saved(legacy: bool) -> bytes:
    file = io.BytesIO()
    torch.save(SMALL, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


SAVED = {False: _saved(False), True: _saved(True)}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.booleans())
def test_random_damage_is_refused_or_changes_data_only(data: st.DataObject, legacy: bool) -> None:
    good = SAVED[legacy]
    content = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    path = Path(os.environ["TMPDIR_OF_TEST"]) / "damaged.pth"
    path.write_bytes(content)
    try:
        loaded = load_file(path)
    except CheckpointError:
        return
    pickle.dumps(loaded)  # whole, of plain data
    if not legacy:  # its pickle has a checksum, and so has nothing changed but tensors' values
        assert loaded["meta"] == SMALL["meta"]
        shapes = {key: value.shape for key, value in loaded["state_dict"].items()}
        assert shapes == {key: value.shape for key, value in SMALL["state_dict"].items()}


@pytest.fixture(autouse=True)
def _folder_of_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR_OF_TEST", str(tmp_path))
