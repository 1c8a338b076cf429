"""The benchmark, with a fake clock: what is run in which order, what is computed, what is said."""

import csv
import gc
import json
import types
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from families import ARCHS, smallest
from PIL import Image
from torch import Tensor, nn

from mmvitconv.analysis import benchmark, timing
from mmvitconv.analysis.benchmark import (
    Plan,
    all_archs,
    build,
    find_models,
    run_benchmark,
    smallest_archs,
)
from mmvitconv.analysis.benchmark_results import (
    Comparison,
    Row,
    best_variants,
    compare,
    environment,
    plot_results,
    read_results,
    table_of,
    write_results,
)
from mmvitconv.errors import UserError
from mmvitconv.runtime import fold
from mmvitconv.zoo.costs import Complexity, Macs, count_image, peak_memory


class Trunk(nn.Module):
    """A backbone that costs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.conv(x)]


class Selective(Trunk):
    """Does not run everything."""

    def __init__(self, refuse: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.refuse = refuse

    def forward(self, x: Tensor) -> list[Tensor]:
        if x.device.type != "meta":
            self.refuse(x)
        return super().forward(x)


class Entry(NamedTuple):
    """A model that a test builds."""

    name: str
    build: Callable[[tuple[int, int]], nn.Module]


def trunk(name: str) -> Entry:
    return Entry(name, lambda shape: Trunk())


@pytest.fixture(autouse=True)
def tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that runs what it is given and always reports the same."""
    monkeypatch.setattr(timing, "clock", lambda function: (function(), 0.001)[1])


def plan(*entries: Entry, **options: object) -> Plan:
    return replace(
        Plan(dict(entries), shape=((8, 8),), layout=("nchw",), rounds=2, warm_up=1), **options
    )


def measure(what: Plan) -> tuple[list[list[Row]], list[str]]:
    said: list[str] = []
    return list(run_benchmark(what, said)), said


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], float]], None]:
    """Let a function say how long each call took."""

    def use(seconds: Callable[[], float]) -> None:
        monkeypatch.setattr(timing, "clock", lambda function: (function(), seconds())[1])

    return use


SETTING = ("224x224", 1, "fp32", "nchw", "eager", "inference")
NUMBERS = (10.0, 0.1, 9.0, 100.0, 3.5, None, 20, 2)
ROW = Row("resnet50", 10**6, 2 * 10**9, *SETTING, *NUMBERS, "Some CPU", "2.9", "2026-01-01")


def row(model: str = "resnet50", **values: object) -> Row:
    return replace(ROW, model=model, **values)


# Taking turns ---------------------------------------------------------------------------------


def test_functions_take_turns_and_the_order_rotates():
    calls: list[str] = []
    functions = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = timing.take_turns(functions, rounds=3, warm_up=1)
    assert "".join(calls) == "bca" + "cab" + "abc" + "bca"
    assert times == {name: [0.001] * 3 for name in "abc"}


def test_the_garbage_collector_rests_while_something_is_timed():
    assert gc.isenabled()
    states: list[bool] = []
    timing.take_turns({"a": lambda: states.append(gc.isenabled())}, 2)
    assert states == [False] * 3
    assert gc.isenabled()


@pytest.mark.parametrize(("seconds", "rounds"), [(None, 30), (0.0001, 5), (0.0101, 11)])
def test_a_budget_ends_after_a_whole_round_but_not_before_the_fifth(
    seconds: float | None, rounds: int
):
    times = timing.take_turns({"a": lambda: None}, 30, seconds=seconds)
    assert len(times["a"]) == rounds


def test_memory_is_the_same_in_inference_mode():
    layer = nn.Linear(10, 1000)
    x = torch.zeros(5, 10)

    def infer() -> Tensor:
        with torch.inference_mode():
            return layer(x).relu().sum()

    def plain() -> Tensor:
        with torch.no_grad():
            return layer(x).relu().sum()

    assert peak_memory(infer) == peak_memory(plain) >= 2 * 20000


# Measuring ------------------------------------------------------------------------------------


def test_medians_quartiles_and_rates(set_clock: Callable):
    durations = iter([9.0, 9.0, 0.001, 0.002, 0.003, 0.004, 0.010])  # first call, warm-up, rounds
    set_clock(lambda: next(durations))
    [[result]], said = measure(plan(trunk("a"), rounds=5, batch=(4,)))
    assert said == []
    assert (result.median_ms, result.min_ms) == pytest.approx((3.0, 1.0))
    assert result.iqr_ms == pytest.approx(2.0)
    assert result.images_per_s == pytest.approx(4 / 0.003)
    assert (result.rounds, result.batch, result.shape) == (5, 4, "8x8")
    assert result.params == 3 * 4 * 9 + 4
    assert result.macs == 8 * 8 * 3 * 4 * 9  # of one image, not of four
    assert result.peak_mb == pytest.approx(4 * 4 * 64 * 4 / 2**20)


def test_every_combination_is_measured_once():
    groups, said = measure(
        plan(
            trunk("a"),
            trunk("b"),
            shape=((8, 8), (4, 12)),
            batch=(1, 2),
            rounds=1,
            warm_up=0,
            dtype=("fp32", "bf16"),
            layout=("nchw", "nhwc"),
            pass_=("inference", "training"),
        )
    )
    assert said == []
    assert [len(rows) for rows in groups] == [2 * 2 * 2] * 8
    assert {group[0].group for group in groups} == {
        f"{pass_} {shape} batch {batch}"
        for pass_ in ("inference", "training")
        for shape in ("8x8", "4x12")
        for batch in (1, 2)
    }
    assert len({result.key for rows in groups for result in rows}) == 64


def test_what_is_run_is_what_the_row_says():
    seen: list[tuple] = []

    class Spy(Trunk):
        def forward(self, x: Tensor) -> list[Tensor]:
            out = super().forward(x)
            if x.device.type != "meta":
                nhwc = not x.is_contiguous()
                state = (self.training, torch.is_inference_mode_enabled())
                seen.append((out[0].dtype, nhwc, self.conv.weight.is_contiguous(), *state))
            return out

    options = {"dtype": ("fp32", "bf16"), "layout": ("nchw", "nhwc")}
    measure(plan(Entry("a", lambda shape: Spy()), **options))
    assert set(seen) == {
        (dtype, nhwc, not nhwc, False, True)
        for dtype in (torch.float32, torch.bfloat16)
        for nhwc in (False, True)
    }
    seen.clear()
    measure(plan(Entry("a", lambda shape: Spy()), pass_=("training",)))
    assert set(seen) == {(torch.float32, False, True, True, False)}


def test_a_training_step_changes_the_weights_and_leaves_no_gradients(
    monkeypatch: pytest.MonkeyPatch,
):
    built: list[Trunk] = []
    steps = []

    class Kept(Trunk):
        def __deepcopy__(self, memo: dict) -> "Kept":
            return self

    def build(shape: tuple[int, int]) -> Kept:
        built.append(Kept())
        steps.append(built[-1].conv.weight.detach().clone())
        return built[-1]

    costs = Complexity(0, Macs(), {}, {}, {})
    monkeypatch.setattr(benchmark, "count_image", lambda model, channels, shape: costs)
    measure(plan(Entry("a", build), pass_=("training",)))
    assert not torch.equal(built[0].conv.weight, steps[0])
    assert built[0].conv.weight.grad is None


def test_inference_is_folded_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch):
    folded: list[nn.Module] = []
    monkeypatch.setattr(
        benchmark, "fold", lambda model, inplace: folded.append(model) or fold(model, inplace)
    )
    what = plan(
        Entry("FCViT:tiny", partial(build, "FCViT:tiny")),
        shape=((64, 64),),
        pass_=("inference", "training"),
    )
    [[inference], [training]], said = measure(what)
    assert said == []
    assert (inference.folded, training.folded, len(folded)) == (True, False, 1)
    assert hasattr(folded[0], "inference_only")
    [[inference]], _ = measure(replace(what, pass_=("inference",), folds=False))
    assert not inference.folded
    assert len(folded) == 1


def test_branches_of_timms_models_are_merged():
    model = benchmark.build("repvit_m0_9", (32, 32)).eval()
    images = torch.rand(1, 3, 32, 32)
    layers = [len([*model.modules()])]
    with torch.no_grad():
        expected = model(images)
        model = benchmark._fold(model)
        layers.append(len([*model.modules()]))
        torch.testing.assert_close(model(images), expected)
    assert layers[1] < 0.6 * layers[0]


def test_models_of_ours_are_folded_by_us_alone():
    model = benchmark._fold(benchmark.build("ParCNet:xs", (32, 32)).eval())  # has layers "fuse"
    with torch.no_grad():
        assert len(model(torch.rand(1, 3, 32, 32))) == 4


def test_a_model_that_does_not_run_is_said_and_the_others_go_on():
    def refuse(x: Tensor) -> None:
        raise AssertionError("wants 7 x 7\nand more")

    def build(shape: tuple[int, int]) -> nn.Module:
        raise ValueError("no such size")

    [rows], said = measure(
        plan(Entry("b", lambda shape: Selective(refuse)), Entry("c", build), trunk("a"))
    )
    assert [result.model for result in rows] == ["a"]
    assert said == [
        "inference 8x8 batch 1: b fp32 nchw eager left out: AssertionError: wants 7 x 7",
        "inference 8x8 batch 1: c left out: ValueError: no such size",
    ]


def test_a_failed_compilation_is_said(monkeypatch: pytest.MonkeyPatch):
    def fail(module: nn.Module, dynamic: bool) -> nn.Module:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", fail)
    [[result]], [line] = measure(plan(trunk("a"), mode=("compiled", "eager")))
    assert (result.mode, result.compile_s) == ("eager", None)
    assert "a fp32 nchw compiled left out: RuntimeError: no compiler" in line


def test_compilation_is_not_part_of_the_time(monkeypatch: pytest.MonkeyPatch, set_clock: Callable):
    monkeypatch.setattr(torch, "compile", lambda module, dynamic: module)
    durations = iter([50.0, 0.004, 0.002, 0.002, 0.002])  # compiled, checked again, then turns
    set_clock(lambda: next(durations))
    [[result]], _ = measure(plan(trunk("a"), mode=("compiled",)))
    assert (result.compile_s, result.median_ms) == pytest.approx((50.0, 2.0))
    assert result.peak_mb is None


def test_a_batch_that_does_not_fit_is_halved_for_all():
    def refuse(x: Tensor) -> None:
        if len(x) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    big = Entry("big", lambda shape: Selective(refuse))
    groups, said = measure(plan(trunk("a"), big, batch=(8, 2)))
    assert [[(r.model, r.batch) for r in rows] for rows in groups] == [[("a", 2), ("big", 2)]]
    assert [line.partition("; ")[2] for line in said] == [
        "batch 4 for all models",
        "batch 2 for all models",
    ]


def failing_call(batch: int, call: int) -> Callable[[Tensor], None]:
    """Lacks memory above a batch, in one call of each larger batch, counted from 0."""
    seen: list[int] = []

    def refuse(x: Tensor) -> None:
        seen.append(len(x))
        if len(x) > batch and seen.count(len(x)) - 1 == call:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    return refuse


# After the first call: warm-up, two rounds, memory.
@pytest.mark.parametrize("call", [1, 2, 4], ids=["warm-up", "round", "memory"])
def test_a_shortage_of_memory_in_any_call_halves_the_batch(call: int):
    refuse = failing_call(2, call)
    big = Entry("big", lambda shape: Selective(refuse))
    [rows], [line] = measure(plan(big, trunk("a"), batch=(4,)))
    assert [(result.model, result.batch) for result in rows] == [("big", 2), ("a", 2)]
    assert "big fp32 nchw eager does not fit into memory; batch 2 for all models" in line


def test_a_shortage_of_memory_in_the_second_call_of_what_seems_hopeless(set_clock: Callable):
    refuse = failing_call(2, 2)  # behind the first calls of both types
    big = Entry("big", lambda shape: Selective(refuse))
    durations = iter([99.0])
    set_clock(lambda: next(durations, 0.001))
    [rows], [line] = measure(plan(big, batch=(4,), dtype=("bf16", "fp32")))
    assert {result.batch for result in rows} == {2}
    assert "big bf16 nchw eager does not fit into memory; batch 2 for all models" in line


@pytest.mark.parametrize("batch", [1, 2])
def test_weights_that_do_not_fit(batch: int):
    class Heavy(Trunk):
        def to(self, *args: object, **options: object) -> "Heavy":
            if "memory_format" in options:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return super().to(*args, **options)

    heavy = Entry("heavy", lambda shape: Heavy())
    [[result]], said = measure(plan(heavy, trunk("a"), batch=(batch,)))
    assert (result.model, result.batch) == ("a", 1)
    assert len(said) == batch
    assert "heavy fp32 nchw eager does not fit into memory; left out" in said[-1]


def test_a_model_that_cannot_be_built_for_lack_of_memory():
    def build(shape: tuple[int, int]) -> nn.Module:
        raise MemoryError

    [[result]], [line] = measure(plan(Entry("heavy", build), trunk("a")))
    assert result.model == "a"
    assert "heavy does not fit into memory; left out" in line


def test_images_that_do_not_fit(monkeypatch: pytest.MonkeyPatch):
    def fail(shape: tuple[int, ...], seed: int) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(benchmark, "random_tensor", fail)
    groups, said = measure(plan(trunk("a"), batch=(2,)))
    assert groups == [[]]
    assert [line.partition(": ")[2] for line in said] == [
        "the input does not fit into memory; batch 1 for all models",
        "the input does not fit into memory; left out",
    ]


def test_after_a_shortage_all_memory_is_free(monkeypatch: pytest.MonkeyPatch):
    built: weakref.WeakSet[nn.Module] = weakref.WeakSet()
    alive: list[int] = []

    class Tracked(Selective):
        def __deepcopy__(self, memo: dict) -> "Tracked":
            built.add(new := Tracked(self.refuse))
            return new

    def refuse(x: Tensor) -> None:
        if len(x) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    def collect() -> None:
        gc.collect()
        alive.append(len(built))

    resets = []
    monkeypatch.setattr(benchmark, "gc", types.SimpleNamespace(collect=collect))
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    monkeypatch.setattr(torch._dynamo, "reset", lambda: resets.append(len(alive)))
    tracked = Entry("a", lambda shape: Tracked(refuse))
    measure(plan(tracked, batch=(2,), mode=("compiled",)))
    assert alive == [0]
    assert resets == [0, 1]  # also after the try that failed


def test_compiled_variants_do_not_share_their_versions(monkeypatch: pytest.MonkeyPatch):
    import torch._dynamo.config as dynamo_config

    compile_ = torch.compile
    monkeypatch.setattr(
        torch,
        "compile",
        lambda function, dynamic: compile_(function, dynamic=dynamic, backend="eager"),
    )
    with dynamo_config.patch(error_on_recompile=True):
        [rows], said = measure(
            plan(trunk("a"), trunk("b"), mode=("compiled",), layout=("nchw", "nhwc"))
        )
    assert said == []
    assert len(rows) == 4


def test_what_does_not_fit_at_batch_one_is_left_out():
    def refuse(x: Tensor) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    [[result]], [line] = measure(plan(Entry("big", lambda shape: Selective(refuse)), trunk("a")))
    assert result.model == "a"
    assert "big fp32 nchw eager does not fit into memory; left out" in line


def test_a_hopeless_variant_is_left_out(set_clock: Callable):
    slow = {torch.bfloat16: 30.0, torch.float32: 0.01}
    types: list[torch.dtype] = []

    class Typed(Trunk):
        def forward(self, x: Tensor) -> list[Tensor]:
            out = super().forward(x)
            types.append(out[0].dtype)
            return out

    set_clock(lambda: slow[types[-1]])
    typed = Entry("a", lambda shape: Typed())
    [[result]], [line] = measure(plan(typed, dtype=("bf16", "fp32")))
    assert result.dtype == "fp32"
    assert "a bf16 nchw eager left out: 30.0 s a call, more than 10 times" in line


def test_fp16_is_left_out_on_a_cpu():
    [rows], [line] = measure(plan(trunk("a"), dtype=("fp16", "fp32")))
    assert [result.dtype for result in rows] == ["fp32"]
    assert line.startswith("fp16: ")
    with pytest.raises(UserError, match="no dtype is left"):
        measure(plan(trunk("a"), dtype=("fp16",)))


# Models ---------------------------------------------------------------------------------------


def test_archs_come_from_the_registry():
    assert {name.partition(":")[0] for name in all_archs()} == set(ARCHS)
    assert smallest_archs() == [f"{family}:{smallest(family)}" for family in ARCHS]
    # of the two names of one architecture only the first
    tables = {family: len(set(map(id, archs.values()))) for family, archs in ARCHS.items()}
    assert len(all_archs()) == sum(tables.values())
    assert len(find_models(all_archs())) == len(all_archs())


def test_names_of_models():
    found = find_models(["fcvit:B12", "FCViT-s12", "swin_tiny", "timm:resnet18", "resnet50"])
    assert found == ["FCViT:s12", "swin_tiny_patch4_window7_224", "resnet18", "resnet50"]


def test_a_name_of_both_is_ours_but_for_a_peer():
    name = "convmixer_768_32"
    assert find_models([name]) == ["ConvMixer:768_32"]
    assert find_models([name], peers=True) == [name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("FCViT:tinny", "'FCViT:tinny'; did you mean FCViT tiny"),
        ("resnet5", "did you mean resnet50"),
        ("timm:resnet55", "has no model 'resnet55'; did you mean .*resnet50"),
        ("timm:hf-hub:a/b", "has no model 'hf-hub:a/b'"),
    ],
    ids=["arch", "peer", "timm", "download"],
)
def test_an_unknown_model_is_named(name: str, message: str):
    with pytest.raises(UserError, match=message):
        find_models([name])


@pytest.mark.parametrize("name", list(benchmark.PEERS))
def test_peers_give_features_at_sizes_of_detection(name: str):
    model = build(*find_models([name]), (96, 160))
    with torch.no_grad():
        outs = model.to("meta")(torch.empty(1, 3, 96, 160, device="meta"))
    assert len(outs) == len(model.feature_info.channels())


def test_a_peer_of_fixed_size_is_built_for_the_size():
    model = build(*find_models(["timm:deit_tiny_patch16_224"]), (96, 160))
    assert model(torch.zeros(1, 3, 96, 160))[0].shape[2:] == (6, 10)


def test_costs_of_a_model_that_looks_at_values():
    class Looking(Trunk):
        def forward(self, x: Tensor) -> list[Tensor]:
            assert x.abs().sum().item() >= 0
            return super().forward(x)

    assert count_image(Looking(), 3, (8, 8)) == count_image(Trunk(), 3, (8, 8))


# Results --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["results.csv", "results.json"])
def test_files_give_back_the_rows(tmp_path: Path, name: str):
    rows = [row(), row("FCViT:tiny", peak_mb=None, compile_s=1.5, device='Intel(R), "x" µ')]
    write_results(tmp_path / "new" / "dir", rows, environment(), ["x: left out"])
    assert read_results(tmp_path / "new" / "dir" / name) == rows


def test_columns_and_environment(tmp_path: Path):
    write_results(tmp_path, [row()], environment(), ["x: left out"])
    with (tmp_path / "results.csv").open() as file:
        [record] = csv.DictReader(file)
    assert record["pass"] == "inference"
    assert (record["median_ms"], record["compile_s"]) == ("10.0", "")
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["environment"]["torch"] == torch.__version__
    assert content["left_out"] == ["x: left out"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "x,y\n1,2\n", "is not a result of 'mmvitconv benchmark' .it has no 'model'"),
        ("a.csv", "", "holds no measurements"),
        ("a.json", "{}", "it has no 'rows'"),
        ("a.json", "[1]", "is not a result"),
        ("a.json", "nonsense", "is not a result"),
        ("a.csv", "\x00\xff", "is not a result|holds no"),
    ],
    ids=["columns", "empty", "object", "list", "text", "binary"],
)
def test_a_file_of_another_format_is_named(tmp_path: Path, name: str, text: str, message: str):
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message):
        read_results(tmp_path / name)


@pytest.mark.parametrize(
    ("old", "new"),
    [("10.0", "fast"), ("10.0", "0"), ("resnet50", "")],
    ids=["word", "zero", "empty"],
)
def test_a_damaged_value_is_named(tmp_path: Path, old: str, new: str):
    write_results(tmp_path, [row()], {}, [])
    path = tmp_path / "results.csv"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match="is not a result"):
        read_results(path)


def test_no_file(tmp_path: Path):
    with pytest.raises(UserError, match="there is no file"):
        read_results(tmp_path / "none.csv")


def test_the_table_marks_the_fastest_variant_and_compares_like_with_like():
    rows = [
        row(median_ms=10.0),
        row(layout="nhwc", median_ms=20.0),
        row("a", median_ms=30.0),
        row("a", layout="nhwc", median_ms=25.0),
        row("a", dtype="bf16", median_ms=40.0),
    ]
    assert best_variants(rows) == [rows[0], rows[3]]
    table = table_of(rows, "resnet50")
    columns = {column.header: list(column.cells) for column in table.columns}
    assert columns["model"] == ["resnet50 *", "resnet50", "a *", "a", "a"]
    assert columns["x resnet50"] == ["1.00", "1.00", "1.25", "3.00", "-"]


def test_plots(tmp_path: Path):
    rows = [
        row(model, dtype=dtype, layout=layout, pass_=pass_, median_ms=ms, macs=10**9 * (1 + i))
        for i, model in enumerate(["resnet50", "FCViT:tiny", "LightViT:tiny"])
        for dtype, ms in (("fp32", 10.0 + i), ("bf16", 12.0))
        for layout in ("nchw", "nhwc")
        for pass_ in ("inference", "training")
    ]
    paths = plot_results(rows, tmp_path / "plots")
    assert [path.name for path in paths] == [
        "plot-inference-224x224-b1.png",
        "plot-training-224x224-b1.png",
    ]
    with Image.open(paths[0]) as image:
        assert len(image.convert("RGB").getcolors(10**6)) > 50
    again = plot_results(rows, tmp_path / "accuracy", {"resnet50": 76.1, "FCViT:tiny": 74.9})
    assert len(again) == 2
    assert plot_results(rows, tmp_path, {}) == []


# Regression -----------------------------------------------------------------------------------


def run(slow: float = 1.0, machine: float = 1.0, **values: object) -> list[Row]:
    """A run of two models on a machine of some speed, one of them slowed down."""
    times = {"resnet50": 10.0 * machine, "FCViT:tiny": 5.0 * machine * slow}
    return [
        row(
            name,
            layout=layout,
            **{"median_ms": ms, "min_ms": 0.9 * ms, "iqr_ms": 0.02 * ms, **values},
        )
        for name, ms in times.items()
        for layout in ("nchw", "nhwc")
    ]


def verdicts(comparison: Comparison) -> list[str]:
    """What is said about the models that seem slower."""
    return [said for change in comparison.changes if (said := change.verdict(1.25))]


@pytest.mark.parametrize("machine", [0.3, 1.0, 7.0])
@pytest.mark.parametrize(("slow", "found"), [(1.0, 0), (1.2, 0), (1.3, 2), (0.5, 0)])
def test_a_slower_model_is_found_on_any_machine(machine: float, slow: float, found: int):
    comparison = compare(run(), run(slow, machine), "resnet50")
    assert verdicts(comparison) == ["slower"] * found
    assert {change.row.model for change in comparison.changes} == {"FCViT:tiny"}
    assert all(change.factor == pytest.approx(slow) for change in comparison.changes)
    assert comparison.missing == comparison.new == comparison.warnings == []


@pytest.mark.parametrize(
    "values", [{"iqr_ms": 20.0, "rounds": 5}, {"min_ms": 4.5}], ids=["spread", "fastest"]
)
def test_what_may_be_noise_is_unclear_and_no_alarm(values: dict):
    now = [replace(each, **values) if ":" in each.model else each for each in run(1.6)]
    comparison = compare(run(), now, "resnet50")
    assert verdicts(comparison) == ["unclear"] * 2


def test_a_slowdown_that_is_not_confirmed_is_dropped():
    first, again = run(1.5), run(1.05)
    assert verdicts(compare(run(), first, "resnet50")) == ["slower"] * 2
    assert verdicts(compare(run(), first, "resnet50", again, again)) == []
    assert verdicts(compare(run(), first, "resnet50", first, first)) == ["slower"] * 2


@pytest.mark.parametrize("place", [0, 1])
def test_load_on_the_calibration_model_hides_no_slowdown(place: int):
    again = [run(1.5), run(1.5)]
    again[place] = run(0.7)
    assert verdicts(compare(run(), run(1.5), "resnet50", *again)) == ["slower"] * 2


def test_a_row_that_was_not_measured_again_keeps_its_ratio():
    only_nchw = [each for each in run(1.0) if each.layout == "nchw"]
    comparison = compare(run(), run(1.5), "resnet50", only_nchw, only_nchw)
    assert verdicts(comparison) == ["slower"]
    assert comparison.changes[0].row.layout == "nhwc"


def test_what_cannot_be_compared_is_named():
    before, now = run(), run(device="Other CPU", torch="3.0", threads=1)
    comparison = compare(before, [*now[:-1], row("new")], "resnet50")
    [missing], [new] = comparison.missing, comparison.new
    assert missing.label == "FCViT:tiny fp32 nhwc eager, inference 224x224 batch 1"
    assert new.label == "new fp32 nchw eager, inference 224x224 batch 1"
    text = " ".join(comparison.warnings)
    assert "device was Some CPU, now Other CPU, Some CPU;" in text
    assert "torch was 2.9, now 2.9, 3.0;" in text
    assert "threads was 2, now 1, 2;" in text
    comparison = compare(before, [row for row in before if row != before[0]], "resnet50")
    assert (
        "not compared, without resnet50 beside them: FCViT:tiny fp32 nchw" in comparison.warnings[0]
    )


def test_nothing_in_common():
    with pytest.raises(UserError, match="no measurement of this run"):
        compare(run(), [replace(each, batch=7) for each in run()], "resnet50")


def test_models_with_their_weights(tmp_path, monkeypatch):
    """By the name of published weights, which are in the cache here, or by a file."""
    monkeypatch.setenv("MMVITCONV_HOME", str(tmp_path))
    (tmp_path / "fcvit_tiny").mkdir()
    weights = build("FCViT:tiny", (32, 32)).state_dict()
    given = {key: value + value.is_floating_point() for key, value in weights.items()}
    file = tmp_path / "fcvit_tiny/fcvit_tiny.pth.tar"
    torch.save({f"backbone.{key}": value for key, value in given.items()}, file)
    [name] = find_models(["mmvitconv://fcvit-tiny"])
    assert name == "mmvitconv://fcvit_tiny"
    for model in (
        build(name, (32, 32)),
        build("FCViT:tiny", (32, 32), str(file)),
    ):
        assert all(torch.equal(value, given[key]) for key, value in model.state_dict().items())
