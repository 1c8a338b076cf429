"""The command ``mmvitconv benchmark``, most of it with a fake clock."""

import csv
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mmvitconv.analysis import benchmark as measuring
from mmvitconv.analysis import timing
from mmvitconv.cli import benchmark, parse, run
from mmvitconv.errors import UserError

TINY = ["--peers", "timm:resnet18", "--calibration", "timm:resnet18", "--shapes", "32"]
FAST = [*TINY, "--layouts", "nchw", "--rounds", "2", "--warm-up", "0", "--device", "cpu"]
MODEL = "ParCMobileNetV2:1.0"


def fake_timer(slow: float = 1.0) -> Callable[[Callable[[], object]], float]:
    """Calls of everything but timm's ResNet take ``slow`` times longer; nothing is measured."""
    names: list[str] = []

    def timer(function: Callable[[], object]) -> float:
        names.clear()
        handle = torch.nn.modules.module.register_module_forward_pre_hook(
            lambda module, args: names.append(type(module).__module__)
        )
        try:
            function()
        finally:
            handle.remove()
        return 0.01 if names[0].startswith("timm") else 0.01 * slow

    return timer


def measure(arguments: list[str], clock: Callable = timing.clock) -> int:
    """Run the command with a clock of ours; errors stay exceptions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "clock", clock)
        return benchmark.run(parse("benchmark", *arguments))


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("text", "shape"),
    [("800x1280", (800, 1280)), ("224", (224, 224)), ("7X9", (7, 9)), (" 5x5 ", (5, 5))],
)
def test_shapes(text: str, shape: tuple[int, int]):
    assert benchmark.parse_shape(text) == shape


@pytest.mark.parametrize("text", ["", "x", "800x", "8x8x8", "0x8", "-3", "2.5", "big"])
def test_a_malformed_shape_is_named(text: str):
    with pytest.raises(ArgumentTypeError, match="must be HEIGHTxWIDTH"):
        benchmark.parse_shape(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["FCViT:tinny"], "did you mean"),
        (["--regress", "/none.csv"], "there is no file '/none.csv'"),
        (["--regress", __file__], "is not a result of 'mmvitconv benchmark'"),
        (["--out", __file__], "is a file; give a folder"),
        (["mmvitconv://fcvit_s13"], "no published weights 'fcvit_s13'; did you mean fcvit_s12"),
        (["mmvitconv://dwnet_tiny", "--peers"], "is a link only"),
        (["FCViT:tiny", "--peers", "--checkpoint", "/none.pth"], "'/none.pth' does not exist"),
        (["--checkpoint", "/none.pth"], "but 0 are named; name the one ARCH"),
        (["FCViT:tiny", "FCViT:s12", "--checkpoint", "/none.pth"], "but 2 are named"),
    ],
    ids=["arch", "no file", "format", "out", "name", "link", "checkpoint", "none", "two"],
)
def test_one_sentence_for_what_cannot_work(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert run("benchmark", *arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    lines = [line for line in error.splitlines() if not line.endswith("...")]
    assert len(lines) == 1
    assert lines[0].startswith("mmvitconv benchmark: error: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shapes", "8by8"], "must be HEIGHTxWIDTH"),
        (["--shapes"], "expected at least one argument"),
        (["--dtypes", "fp8"], "invalid choice: 'fp8'"),
        (["--layouts", "hwc"], "invalid choice: 'hwc'"),
        (["--modes", "fast"], "invalid choice: 'fast'"),
        (["--passes", "test"], "invalid choice: 'test'"),
        (["--batch", "0"], "invalid positive value: '0'"),
        (["--rounds", "0"], "invalid positive value: '0'"),
        (["--threads", "-1"], "invalid positive value: '-1'"),
        (["--warm-up", "-1"], "must be at least 0, got -1"),
        (["--seconds", "nan"], "must be at least 1e-09, got nan"),
        (["--tolerance", "0.5"], "must be at least 1, got 0.5"),
    ],
    ids=lambda value: "".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as stop:
        run("benchmark", *arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_real_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "new" / "folder"
    options = ["--passes", "inference", "training", "--dtypes", "fp16", "fp32", "--batch", "2"]
    assert measure([MODEL, *FAST, *options, "--out", str(out), "--plot", "accuracy"]) == 0
    rows = read(out / "results.csv")
    assert [(row["model"], row["pass"]) for row in rows] == [
        (MODEL, "inference"),
        ("resnet18", "inference"),
        (MODEL, "training"),
        ("resnet18", "training"),
    ]
    assert all(float(row["median_ms"]) > 0 and float(row["peak_mb"]) > 0 for row in rows)
    assert '"fp16: CPUs' in (out / "results.json").read_text()
    printed = capsys.readouterr()
    assert "fp16: CPUs have no fast kernels" in printed.err
    assert "x resnet18" in printed.out


def test_a_slowed_model_is_found_and_an_equal_one_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert measure([MODEL, *FAST, "--out", str(tmp_path)], fake_timer()) == 0
    assert (tmp_path / "plot-inference-32x32-b1.png").is_file()
    file = tmp_path / "results.csv"
    again = ["--regress", str(file), "--calibration", "timm:resnet18", "--rounds", "2"]
    capsys.readouterr()
    assert measure(again, fake_timer(1.2)) == 0
    assert "1 of 1 measurements are not slower" in capsys.readouterr().out
    assert measure(again, fake_timer(1.5)) == 1
    printed = capsys.readouterr()
    assert f"slower: {MODEL} fp32 nchw eager" in printed.out
    assert "x 1.50" in printed.out
    assert f"measured again: {MODEL}" in printed.err
    assert measure([*again, "--tolerance", "2"], fake_timer(1.5)) == 0


def test_a_slowdown_is_found_while_the_calibration_model_is_slow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    measure([MODEL, *FAST, "--out", str(tmp_path)], fake_timer())
    calls: list[float] = []
    inner = fake_timer(1.5)

    def timer(function: Callable[[], object]) -> float:
        taken = inner(function)
        if (
            taken == 0.01
        ):  # the calibration model: a first call and two rounds in each of three runs
            calls.append(taken)
            return taken * (2 if len(calls) in (4, 5, 6) else 1)
        return taken

    again = ["--regress", str(tmp_path / "results.csv"), "--calibration", "timm:resnet18"]
    assert measure([*again, "--rounds", "2", "--warm-up", "0"], timer) == 1
    assert len(calls) == 9
    assert "x 1.50" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("refused", "said"),
    [("float32", "left out: ValueError: broken"), ("memory", "batch 1 for all models")],
    ids=["does not run", "memory"],
)
def test_what_no_longer_runs_is_an_alarm(
    refused: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    both = [MODEL, "FCViT:tiny", *FAST, "--batch", "1", "2", "--out", str(tmp_path)]
    assert measure(both, fake_timer()) == 0
    inner = fake_timer()

    def timer(function: Callable[[], object]) -> float:
        def broken(module: torch.nn.Module, args: tuple) -> None:
            if type(module).__name__ == "FCViT":
                if refused == "float32":
                    raise ValueError("broken")
                if len(args[0]) == 2:
                    raise torch.cuda.OutOfMemoryError("CUDA out of memory")

        handle = torch.nn.modules.module.register_module_forward_pre_hook(broken)
        try:
            return inner(function)
        finally:
            handle.remove()

    again = ["--regress", str(tmp_path / "results.csv"), "--calibration", "timm:resnet18"]
    again += ["--rounds", "1", "--warm-up", "0"]
    capsys.readouterr()
    assert measure(again, timer) == 1
    printed = capsys.readouterr()
    assert said in printed.err
    assert (
        "could not be measured as in the earlier run: FCViT:tiny fp32 nchw eager, inference 32x32 "
        "batch 2" in printed.out
    )
    # what the user did not ask for is only named
    assert measure([*again, MODEL, "--peers", "timm:resnet18", "--batch", "1"], timer) == 0
    printed = capsys.readouterr().out
    assert "missing here, not compared: " in printed
    assert "could not be measured" not in printed


def test_regress_measures_what_the_file_has(tmp_path: Path):
    measure([MODEL, *FAST, "--batch", "2", "--out", str(tmp_path / "a")], fake_timer())
    options = ["--regress", str(tmp_path / "a" / "results.json"), "--rounds", "1"]
    options += ["--calibration", "timm:resnet18", "--out", str(tmp_path / "b")]
    assert measure(options, fake_timer()) == 0
    keys = [
        [(row["model"], row["shape"], row["batch"]) for row in read(tmp_path / run / "results.csv")]
        for run in "ab"
    ]
    assert keys[0] == keys[1]


def test_a_file_without_the_calibration_model(tmp_path: Path):
    measure([MODEL, *FAST, "--out", str(tmp_path)], fake_timer())
    with pytest.raises(UserError, match="no row of the calibration model 'resnet50'"):
        measure(["--regress", str(tmp_path / "results.csv")], fake_timer())


@pytest.mark.parametrize(
    ("arguments", "models", "layouts", "rounds"),
    [
        ([], None, ["nchw", "nhwc"], 20),
        (["--quick"], None, ["nchw"], 10),
        (["--quick", "--rounds", "3"], None, ["nchw"], 3),
        (["FCViT:s12", "--peers"], ["FCViT:s12"], ["nchw", "nhwc"], 20),
    ],
    ids=["default", "quick", "quick with rounds", "one"],
)
def test_defaults(
    arguments: list[str],
    models: list[str] | None,
    layouts: list[str],
    rounds: int,
    monkeypatch: pytest.MonkeyPatch,
):
    plans = []
    # tested beside its function; builds every architecture
    monkeypatch.setattr(measuring, "smallest_archs", lambda: ["FCViT:tiny"])
    monkeypatch.setattr(benchmark, "_measure", lambda plan, *rest: plans.append(plan) or ["row"])
    assert measure([*arguments, "--device", "cpu"]) == 0
    [plan] = plans
    peers = ["resnet50", "convnext_tiny", "swin_tiny_patch4_window7_224", "convmixer_768_32"]
    assert list(plan.models) == (models or ["FCViT:tiny", *peers])
    assert list(plan.layout) == layouts
    assert plan.rounds == rounds
    assert list(plan.shape) == [(224, 224)]
    assert list(plan.dtype) == ["fp32"]


def test_nothing_to_measure():
    with pytest.raises(UserError, match="no dtype is left"):
        measure([MODEL, *FAST, "--dtypes", "fp16"])
