"""The hook that looks at every step's numbers, in runs of a small model on bad data."""

import math
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from itertools import count
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from broken_data import CLASSIFIER
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel
from mmengine.optim import BaseOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.runner import FlexibleRunner, Runner
from mmengine.structures import BaseDataElement
from PIL import Image
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmvitconv.checks import diagnosis
from mmvitconv.checks.non_finite import NonFiniteError, NonFiniteHook
from mmvitconv.engine.modules import unwrap_model
from mmvitconv.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


class Trouble(nn.Module):
    """Multiplies by one; an image whose first pixel is a special number makes it do worse."""

    MIDDLE, ROOT = 1001.0, 1002.0

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        special = image[:, :1, :1, :1]
        x = x * torch.where(special == self.MIDDLE, math.nan, 1.0)
        # finite itself, but its derivative is 0 * inf
        return x + torch.where(special == self.ROOT, x * 0, 1.0).sqrt() * 0


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.trouble = Trouble()

    def forward(self, x: Tensor) -> Tensor:
        return self.trouble(self.act(self.norm(self.conv(x.clamp(-9, 9)))), x)


class Model(BaseModel):
    """A backbone with BN, a head, and a loss that a special number makes infinite."""

    LOSS = 1003.0

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Block()
        self.head = nn.Linear(4, 2)

    def forward(
        self, inputs: Sequence[Tensor], data_samples: list | None = None, mode: str = "loss"
    ) -> dict[str, Tensor]:
        x = torch.stack(list(inputs))
        scores = self.head(self.backbone(x).mean((2, 3)))
        target = 1 + torch.where(x[:, 0, 0, 0] == self.LOSS, math.inf, 0.0).sum()
        return {"loss_fit": scores.square().mean(), "loss_size": (scores.mean() - target).abs()}


def make_sample(index: int, special: float | None = None, name: str = "") -> dict[str, Any]:
    image = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(index))
    if special is not None:
        image[0, 0, 0] = special
    path = f"/data/{name or index}.png"
    return {"inputs": image, "data_samples": BaseDataElement(metainfo={"img_path": path})}


def make_data(steps: int, bad: dict[int, float], batch: int = 2) -> list[dict[str, Any]]:
    """Samples of ``steps`` batches; the last sample of each bad one holds the special number."""
    samples = [make_sample(index) for index in range(steps * batch)]
    for step, special in bad.items():
        samples[step * batch + batch - 1] = make_sample(step, special, f"bad_{step}")
    return samples


def build_runner(
    folder: Path, data: list[dict[str, Any]], hooks: list[dict], batch: int = 2, **settings: Any
) -> Runner:
    torch.manual_seed(0)
    model = settings.pop("model", None) or Model()
    wrapper = {"optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}}
    return Runner(
        model=model,
        work_dir=str(folder),
        train_dataloader={
            "batch_size": batch,
            "dataset": data,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "collate_fn": {"type": "pseudo_collate"},
        },
        train_cfg=settings.pop("train_cfg", {"by_epoch": True, "max_epochs": 1}),
        optim_wrapper={**wrapper, **settings.pop("optim_wrapper", {})},
        default_hooks={
            "checkpoint": {"type": "CheckpointHook", "interval": 1, "by_epoch": False},
            "logger": {"type": "LoggerHook", "interval": 1},
        },
        custom_hooks=hooks,
        experiment_name=f"run_{next(NUMBERS)}_{folder.name}",
        randomness={"seed": 0},
        **settings,
    )


def train(*args: Any, **settings: Any) -> Runner:
    """Train and return the runner."""
    runner = build_runner(*args, **settings)
    runner.train()
    return runner


def warnings_of(folder: Path, runner: Runner) -> list[str]:
    """What the log says about skipped steps."""
    log = next(folder.rglob(f"{runner.timestamp}.log")).read_text()
    return [line for line in log.splitlines() if re.search("step skipped|were skipped", line)]


NUMBERS = count()
FUNCTIONS = (FunctionType, BuiltinFunctionType)
HOOK = {"type": "mmvitconv.NonFiniteHook"}
SKIP = {**HOOK, "action": "skip"}


def fail(folder: Path, bad: dict[int, float], **settings: Any) -> str:
    """Train on bad data and return the message."""
    runner = build_runner(folder, make_data(4, bad), settings.pop("hooks", [HOOK]), **settings)
    with pytest.raises(NonFiniteError) as caught:
        runner.train()
    for name, tensor in runner.model.state_dict().items():
        assert torch.isfinite(tensor).all(), name
    message = str(caught.value)
    assert "\n" not in message
    return message


def states(runner: Runner) -> dict[str, Any]:
    """Everything that a step changes."""
    found = {f"model.{k}": v for k, v in runner.model.state_dict().items()}
    optimizer = runner.optim_wrapper.optimizer.state_dict()["state"]
    for index, state in optimizer.items():
        found |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            found |= {f"ema.{k}": v for k, v in hook.ema_model.state_dict().items()}
    return found


def assert_equal(first: Runner, second: Runner) -> None:
    first, second = states(first), states(second)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(second[name])), name


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (
            {2: Trouble.MIDDLE},
            [
                "iteration 3 (epoch 1): the loss is not finite (loss_fit=nan, ",
                "first value that is not finite is in the output of backbone.trouble (Trouble)",
                "64 NaN of 128 values",
                "it is there for files: /data/bad_2.png;",
                "files: /data/4.png, /data/bad_2.png.",
                *("learning rate", "clip_grad", "--amp", "action='skip'"),
            ],
        ),
        (
            {1: math.nan},
            [
                "iteration 2 (epoch 1): ",
                "the data themselves are not finite: the image of /data/bad_1.png;",
            ],
        ),
        (
            {0: Model.LOSS},
            [
                "iteration 1 (epoch 1): the loss is not finite (loss_size=inf)",
                "output of the model itself (Model), whose input was finite",
            ],
        ),
        (
            {3: Trouble.ROOT},
            [
                "iteration 4 (epoch 1): the gradients are not finite, the loss is",
                "one that backbone.trouble (Trouble) computes for its input",
            ],
        ),
    ],
    ids=["value from the middle", "image", "loss outside of modules", "gradients alone"],
)
def test_message(tmp_path: Path, bad: dict[int, float], expected: list[str]) -> None:
    message = fail(tmp_path, bad)
    assert message.startswith(expected[0])
    for text in expected:
        assert text in message
    assert ("output of" in message) == any("output of" in text for text in expected)


def test_bad_annotation(tmp_path: Path) -> None:
    data = make_data(2, {1: Trouble.MIDDLE})
    data[2]["data_samples"].set_data({"box": torch.tensor([0.0, math.inf])})
    with pytest.raises(NonFiniteError, match=r"the annotations of /data/2.png"):
        build_runner(tmp_path, data, [HOOK]).train()


class SharpLoss(Model):
    """Its loss has no finite derivative at 0."""

    def forward(self, inputs: Sequence[Tensor], data_samples: list, mode: str) -> dict:
        scores = self.head(torch.stack(list(inputs)).mean((2, 3)) @ torch.ones(3, 4))
        return {"loss": (scores * 0).sqrt().sum() + scores.sum()}


class SharpScale(Model):
    """A module's own parameter gets the bad gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone.scale = nn.Parameter(torch.zeros(()))
        self.backbone.trouble.forward = lambda x, image: x + self.backbone.scale.sqrt()


class LentScale(Model):
    """The same with a module that only keeps the parameter and is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone.keeper = nn.ParameterDict({"scale": torch.zeros(())})
        self.backbone.trouble.forward = lambda x, image: x + self.backbone.keeper["scale"].sqrt()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (SharpLoss, "arrives at the output of head (Linear)"),
        (SharpScale, "backbone (Block) computes for its parameter scale: 1 infinite of 1 values"),
        (LentScale, "backbone (Block) computes for its parameter scale: 1 infinite of 1 values"),
    ],
)
def test_gradients_outside_of_modules(tmp_path: Path, kind: type[Model], expected: str) -> None:
    assert expected in fail(tmp_path, {}, model=kind())


@pytest.mark.parametrize("name", ["head.weight", "backbone.norm.running_var"])
def test_weights_that_were_bad_before(tmp_path: Path, name: str) -> None:
    model = Model()
    model.state_dict()[name].view(-1)[0] = math.inf
    kind = "parameter" if "weight" in name else "buffer"
    runner = build_runner(tmp_path, make_data(2, {0: Trouble.MIDDLE}), [HOOK], model=model)
    expected = rf"not finite before this iteration already: {kind} {re.escape(name)} \(1 infinite"
    with pytest.raises(NonFiniteError, match=expected):
        runner.train()


def test_what_does_not_happen_again(tmp_path: Path) -> None:
    calls = []

    class Once(Model):
        def forward(self, *args: Any, **kwargs: Any) -> dict:
            calls.append(1)
            scale = math.nan if len(calls) == 1 else 1.0
            return {k: v * scale for k, v in super().forward(*args, **kwargs).items()}

    message = fail(tmp_path, {}, model=Once())
    assert "iteration 1 (epoch 1): the loss is not finite (loss_fit=nan, loss_size=nan)" in message
    assert "did not happen again" in message
    assert "files: /data/0.png, /data/1.png" in message


def test_random_numbers_are_the_same_when_repeated(tmp_path: Path) -> None:
    drawn = []

    class Dice(Model):
        def forward(self, *args: Any, **kwargs: Any) -> dict:
            drawn.append(float(torch.rand(())))
            return super().forward(*args, **kwargs)

    train(tmp_path, make_data(3, {1: Trouble.MIDDLE}), [SKIP], model=Dice())
    other = build_runner(tmp_path, make_data(3, {}), [], model=Dice())
    first, second, again, third = drawn
    assert second == again
    other.train()
    assert drawn[4:] == [first, second, third]


def test_many_files_are_counted(tmp_path: Path) -> None:
    data = make_data(1, {0: Trouble.MIDDLE}, batch=11)
    with pytest.raises(NonFiniteError, match=r"/data/7.png, \.\.\. \(3 more\)\. What"):
        build_runner(tmp_path, data, [HOOK], batch=11).train()


def without(data: list, steps: Sequence[int], batch: int = 2) -> list:
    return [sample for index, sample in enumerate(data) if index // batch not in steps]


@pytest.mark.parametrize("special", [Trouble.MIDDLE, Trouble.ROOT, Model.LOSS, math.nan])
@pytest.mark.parametrize("update_buffers", [False, True])
def test_skipped_batch_leaves_no_trace(
    tmp_path: Path, special: float, update_buffers: bool
) -> None:
    ema = {"type": "EMAHook", "momentum": 0.3, "update_buffers": update_buffers}
    data = make_data(5, {0: special, 2: special})
    skipping = train(tmp_path, data, [SKIP, ema])
    plain = train(tmp_path, without(data, [0, 2]), [ema])
    assert_equal(skipping, plain)
    assert skipping.message_hub.get_info("non_finite_skips") == 2
    histories = [
        runner.message_hub.log_scalars["train/loss"].data[0].tolist()
        for runner in (skipping, plain)
    ]
    if special == Trouble.ROOT:  # a loss that is finite stays in the curve
        del histories[0][2], histories[0][0]
    assert histories[0] == histories[1]
    _, second, summary = warnings_of(tmp_path, skipping)
    assert "step skipped" in second
    assert "iteration 3 (epoch 1)" in second
    assert "bad_2.png" in second
    assert "2 step(s) of this run were skipped" in summary


@pytest.mark.parametrize("bad", [2, 3])
def test_accumulated_step_is_left_out_whole(tmp_path: Path, bad: int) -> None:
    ema = {"type": "EMAHook", "momentum": 0.3, "update_buffers": True}
    wrapper = {"accumulative_counts": 2}
    data = make_data(6, {bad: Trouble.MIDDLE})
    skipping = train(tmp_path, data, [SKIP, ema], optim_wrapper=wrapper)
    plain = train(tmp_path, without(data, [2, 3]), [ema], optim_wrapper=wrapper)
    assert_equal(skipping, plain)
    assert all(map(math.isfinite, skipping.message_hub.log_scalars["train/loss"].data[0]))
    warning, _ = warnings_of(tmp_path, skipping)
    assert "step skipped" in warning
    assert f"accumulated iterations 3 to 4 (epoch 1): iteration {bad + 1}; the loss" in warning
    assert f"bad_{bad}.png" in warning


def test_accumulated_step_stops(tmp_path: Path) -> None:
    message = fail(tmp_path, {0: Trouble.ROOT}, optim_wrapper={"accumulative_counts": 4})
    assert "iterations 1 to 4 (epoch 1): iteration 1; the gradients" in message
    assert "files: /data/0.png, /data/bad_0.png." in message


@pytest.mark.parametrize(
    "clip",
    [
        None,
        {"max_norm": 0.1},
        {"max_norm": 0.1, "norm_type": 1},
        {"type": "value", "clip_value": 0.1},
    ],
)
def test_finite_run_is_the_same_with_the_hook(tmp_path: Path, clip: dict | None) -> None:
    ema = {"type": "EMAHook", "momentum": 0.3}
    runs = []
    for hooks in ([], [HOOK], [SKIP]):
        wrapper = {"clip_grad": deepcopy(clip)}
        runs.append(build_runner(tmp_path, make_data(4, {}), [*hooks, ema], optim_wrapper=wrapper))
        runs[-1].train()
    for run in runs[1:]:
        assert_equal(runs[0], run)
        norms = [r.message_hub.log_scalars.get("train/grad_norm") for r in (runs[0], run)]
        assert (norms[0] is None) == (clip is None or "max_norm" not in clip)
        assert norms[0] is None or (norms[0].data[0] == norms[1].data[0]).all()
        assert "step" not in vars(run.optim_wrapper)
        assert isinstance(getattr(run.optim_wrapper, "clip_func", len), FUNCTIONS)


def test_schedules_still_find_their_counter_of_steps(tmp_path: Path) -> None:
    """MMEngine's first step of a schedule warns where the optimizer's ``step`` is another one."""
    schedule = {"type": "LinearLR", "start_factor": 0.5, "end": 4, "by_epoch": False}
    runner = build_runner(tmp_path, make_data(4, {}), [HOOK], param_scheduler=[schedule])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*optimizer.step")
        runner.train()


@pytest.mark.parametrize("special", [Trouble.ROOT, math.nan])
def test_a_step_to_be_clipped_is_skipped(tmp_path: Path, special: float) -> None:
    wrapper = {"clip_grad": {"max_norm": 0.1}}
    data = make_data(4, {1: special})
    skipping = train(tmp_path, data, [SKIP], optim_wrapper=deepcopy(wrapper))
    plain = train(tmp_path, without(data, [1]), [], optim_wrapper=deepcopy(wrapper))
    assert_equal(skipping, plain)


def test_a_norm_may_overflow_where_gradients_do_not(tmp_path: Path) -> None:
    """Clipping makes zeros of them, as it does without the hook."""

    class Steep(Model):
        def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
            return {name: 1e25 * loss for name, loss in super().forward(*args, **kwargs).items()}

    runs = []
    for hooks in ([], [HOOK]):
        torch.manual_seed(0)
        wrapper = {"clip_grad": {"max_norm": 0.1}}
        data = make_data(2, {})
        runs.append(train(tmp_path, data, hooks, optim_wrapper=wrapper, model=Steep()))
        assert (
            runs[-1].message_hub.log_scalars["train/grad_norm"].data[0].tolist() == [math.inf] * 2
        )
    assert_equal(*runs)


@pytest.mark.parametrize("host", ["cpu", "none"])
@pytest.mark.parametrize("bad", [None, math.nan, -math.inf])
def test_any_bad(monkeypatch: pytest.MonkeyPatch, host: str, bad: float | None) -> None:
    monkeypatch.setattr(diagnosis, "HOST", host)
    tensors = [torch.full((3,), 1e30), torch.zeros(0), torch.zeros(0, dtype=torch.bfloat16)]
    assert not diagnosis.any_bad([])
    assert not diagnosis.any_bad(tensors)
    kinds = [torch.ones(2), torch.ones(2).bfloat16(), torch.ones(2).double(), torch.ones(2) * 1j]
    kinds.append(torch.eye(2).to_sparse())
    for place, tensor in enumerate(kinds):
        if bad is not None:
            kinds[place] = tensor * bad
        assert diagnosis.any_bad([*tensors, *kinds]).item() == (bad is not None)
        kinds[place] = tensor


def test_stops_after_too_many_skips_in_a_row(tmp_path: Path) -> None:
    bad = dict.fromkeys((0, 1, 3, 4, 5), Trouble.MIDDLE)
    runner = build_runner(tmp_path, make_data(6, bad), [{**SKIP, "max_skips": 2}])
    with pytest.raises(NonFiniteError, match=r"2 steps in a row were skipped.*iteration 6 "):
        runner.train()
    assert runner.message_hub.get_info("non_finite_skips") == 4


def test_counts_survive_resuming(tmp_path: Path) -> None:
    hooks = [{"type": "mmvitconv.SafeCheckpointHook"}, {**SKIP, "max_skips": 2}]
    train(tmp_path, make_data(3, dict.fromkeys((1, 2), Trouble.MIDDLE)), hooks)
    saved = tmp_path / "iter_3.pth"
    hub = torch.load(saved, weights_only=True)["message_hub"]["runtime_info"]
    assert (hub["non_finite_skips"], hub["non_finite_skips_in_a_row"]) == (2, 2)
    going_on = {
        "train_cfg": {"type": "mmvitconv.ResumableEpochLoop", "max_epochs": 2},
        "resume": True,
        "load_from": str(saved),
    }
    for bad, message in ((0, "2 steps in a row were skipped"), (1, "")):
        data = make_data(3, {bad: Trouble.MIDDLE})
        resumed = build_runner(tmp_path, data, hooks, **going_on)
        with pytest.raises(NonFiniteError, match=message) if message else nullcontext():
            resumed.train()
    assert resumed.message_hub.get_info("non_finite_skips") == 3


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"action": "ignore"}, "'stop' or 'skip', got 'ignore'"),
        ({"max_skips": 0}, ">= 1, got 0"),
        ({"max_skips": 2.5}, "got 2.5"),
        ({"max_skips": True}, "got True"),
    ],
)
def test_illegal_arguments(settings: dict, match: str) -> None:
    with pytest.raises(UserError, match=match):
        NonFiniteHook(**settings)


def test_values_inside_compiled_code(tmp_path: Path) -> None:
    hooks = [HOOK, {"type": "mmvitconv.CompileBackboneHook", "backend": "eager"}]
    message = fail(tmp_path, {1: Trouble.MIDDLE}, hooks=hooks)
    assert "in the output of backbone.trouble (Trouble), whose input was finite" in message


@pytest.mark.parametrize("wrapper", [{}, {"clip_grad": {"max_norm": 1.0}}])
def test_bfloat16(tmp_path: Path, wrapper: dict) -> None:
    settings = {"optim_wrapper": {"type": "mmvitconv.CPUAmpOptimWrapper", **wrapper}}
    data = make_data(3, {1: Trouble.MIDDLE})
    skipping = train(tmp_path, data, [SKIP], **deepcopy(settings))
    plain = train(tmp_path, without(data, [1]), [], **deepcopy(settings))
    assert_equal(skipping, plain)
    kinds = []
    skipping.model.backbone.conv.register_forward_hook(lambda _, __, y: kinds.append(y.dtype))
    with pytest.raises(NonFiniteError, match=r"output of backbone\.trouble"):
        build_runner(tmp_path, data, [HOOK], model=skipping.model, **deepcopy(settings)).train()
    assert kinds == [torch.bfloat16] * 3, "the repetition uses the same precision"


@pytest.mark.usefixtures("scaler_on_cpu")
def test_scaler_deals_with_infinite_gradients(tmp_path: Path) -> None:
    def settings(scale: float) -> dict:
        return {
            "optim_wrapper": {
                "type": "AmpOptimWrapper",
                "dtype": "bfloat16",
                "loss_scale": {"init_scale": scale},
            }
        }

    data = make_data(5, dict.fromkeys((1, 3), Trouble.ROOT))
    run = train(tmp_path, data, [HOOK], **settings(8.0))
    assert run.optim_wrapper.loss_scaler.get_scale() == 2.0
    skipping = train(tmp_path, make_data(5, {2: Model.LOSS}), [SKIP], **settings(8.0))
    assert skipping.optim_wrapper.loss_scaler.get_scale() == 8.0
    assert skipping.message_hub.get_info("non_finite_skips") == 1
    for hook in (HOOK, SKIP):
        run = build_runner(tmp_path, data, [hook], **settings(1.5e-4))
        with pytest.raises(NonFiniteError, match=r"iteration 3 .*loss scale.*below 0.0001"):
            run.train()


class Pair(BaseModel):
    """Two parts with an optimizer each."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Model()
        self.second = Model()

    def forward(self, **_: Any) -> None:
        """Not used."""

    def train_step(self, data: dict, optim_wrapper: Any) -> dict[str, Tensor]:
        losses = {}
        for name in ("first", "second"):
            with optim_wrapper[name].optim_context(self):
                found = self.get_submodule(name)(**data)
            found = {f"{name}.{key}": value for key, value in found.items()}
            total, found = self.parse_losses(found)
            optim_wrapper[name].update_params(total)
            losses |= {key: value for key, value in found.items() if key != "loss"}
        return losses


def test_two_optimizers(tmp_path: Path) -> None:
    def build(data: list, hooks: list) -> Runner:
        torch.manual_seed(0)
        model = Pair()
        model.first.backbone.trouble.ROOT = 0.0  # only the second one stumbles over it
        wrappers = {
            name: OptimWrapper(torch.optim.SGD(part.parameters(), lr=0.01))
            for name, part in model.named_children()
            if name in ("first", "second")
        }
        runner = build_runner(tmp_path, data, hooks, model=model)
        runner.optim_wrapper = OptimWrapperDict(**wrappers)
        return runner

    data = make_data(3, {1: Trouble.MIDDLE})
    skipping, plain = build(data, [SKIP]), build(without(data, [1]), [])
    skipping.train()
    plain.train()
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, skipping.model.state_dict()[name]), name
    with pytest.raises(NonFiniteError, match=r"gradients are not.*second\.backbone\.trouble"):
        build(make_data(2, {0: Trouble.ROOT}), [HOOK]).train()


@pytest.mark.parametrize("special", [Trouble.MIDDLE, Trouble.ROOT])
def test_flexible_runner(tmp_path: Path, special: float) -> None:
    runner = FlexibleRunner(
        model=Model(),
        work_dir=str(tmp_path),
        train_dataloader={
            "batch_size": 2,
            "dataset": make_data(3, {1: special}),
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "collate_fn": {"type": "pseudo_collate"},
        },
        train_cfg={"by_epoch": True, "max_epochs": 1},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.01}},
        custom_hooks=[HOOK],
        experiment_name=tmp_path.name,
    )
    with pytest.raises(NonFiniteError, match=r"iteration 2 .*backbone\.trouble \(Trouble\)"):
        runner.train()


def test_skipping_needs_gradients_in_reach() -> None:
    runner = SimpleNamespace(optim_wrapper=BaseOptimWrapper, model=nn.Linear(1, 1))
    with pytest.raises(UserError, match="needs MMEngine's OptimWrapper"):
        NonFiniteHook(action="skip").before_train(runner)


POISON = """
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS

@TRANSFORMS.register_module(force=True)
class Poison(BaseTransform):
    def transform(self, results):
        results['img'] = results['img'].astype(np.float32)
        if 'bad' in results['img_path']:
            results['img'][3, 4] = np.nan
        return results
"""


def run_tool(
    folder: Path, action: str, names: Sequence[str], *start: str, options: Sequence[str] = ()
) -> subprocess.CompletedProcess:
    """Train as a user does on pictures of these names, in this order."""
    (folder / "images" / "only").mkdir(parents=True)
    for index, name in enumerate(names):
        pixels = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / "only" / f"{index:02}_{name}.png")
    (folder / "poison.py").write_text(POISON)
    config = folder / "config.py"
    kinds = ("LoadImageFromFile", "Poison", "PackInputs")
    dataset = {
        "type": "CustomDataset",
        "data_root": str(folder),
        "data_prefix": "images",
        "pipeline": [{"type": kind} for kind in kinds],
    }
    settings = {
        **CLASSIFIER,
        "custom_imports": {"imports": ["poison"], "allow_failed_imports": False},
        "train_dataloader": {
            "batch_size": 2,
            "num_workers": 0,
            "dataset": dataset,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
        },
        "custom_hooks": [{"type": "mmvitconv.NonFiniteHook", "action": action}],
        "default_hooks": {"logger": {"type": "LoggerHook", "interval": 1}},
        "randomness": {"seed": 0},
        "work_dir": str(folder / "work"),
    }
    with config.open("w") as file:  # Config would import the modules here
        file.writelines(f"{key} = {value!r}\n" for key, value in settings.items())
    return subprocess.run(  # of one class; the check is right to refuse that
        [sys.executable, *start, "tools/train.py", str(config), "--no-check", *options],
        cwd=ROOT,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
            "CUDA_VISIBLE_DEVICES": "",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )


class Overflow(Hook):
    """Makes one of the things that a checkpoint holds infinite after the third step."""

    def __init__(self, what: str) -> None:
        self.what = what

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if runner.iter != 2:
            return
        model = unwrap_model(runner.model)
        average = next(hook for hook in runner.hooks if isinstance(hook, EMAHook)).ema_model.module
        momentum = next(iter(runner.optim_wrapper.optimizer.state.values()))["momentum_buffer"]
        with torch.no_grad():
            {
                "parameter head.weight": model.head.weight,
                "buffer backbone.norm.running_var": model.backbone.norm.running_var,
                "average of parameter head.weight": average.head.weight,
                "momentum_buffer of backbone.conv.weight in the optimizer": momentum,
            }[self.what].view(-1)[1] = math.inf


@pytest.mark.parametrize("hook", [HOOK, SKIP])
@pytest.mark.parametrize(
    "what",
    [
        "parameter head.weight",
        "buffer backbone.norm.running_var",
        "average of parameter head.weight",
        "momentum_buffer of backbone.conv.weight in the optimizer",
    ],
)
def test_what_is_not_finite_is_never_saved(tmp_path: Path, what: str, hook: dict) -> None:
    hooks = [{"type": "mmvitconv.SafeCheckpointHook"}, {"type": "EMAHook"}, Overflow(what), hook]
    runner = build_runner(tmp_path, make_data(5, {}), hooks)
    with pytest.raises(NonFiniteError) as caught:
        runner.train()
    assert f"not finite after iteration 3, though its gradients were: {what} (1 infinite of " in (
        str(caught.value)
    )
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == ["iter_1.pth", "iter_2.pth"]
    assert (tmp_path / "last_checkpoint").read_text().endswith("iter_2.pth")


def test_an_update_that_overflows_is_not_saved(tmp_path: Path) -> None:
    optimizer = {"optimizer": {"type": "SGD", "lr": 1e38, "weight_decay": 1e5}}
    runner = build_runner(tmp_path, make_data(5, {}), [HOOK], optim_wrapper=optimizer)
    with pytest.raises(NonFiniteError, match=r"not finite after iteration 1, .*parameter .*infin"):
        runner.train()
    assert not list(tmp_path.glob("*.pth"))


def test_buffers_that_are_infinite_by_design_are_saved(tmp_path: Path) -> None:
    model = Model()
    model.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    train(tmp_path, make_data(2, {}), [HOOK], model=model)
    assert (tmp_path / "iter_2.pth").is_file()


@pytest.mark.parametrize(
    "wrapper", [{}, {"accumulative_counts": 3}, {"clip_grad": {"max_norm": 0.1}}]
)
def test_the_device_is_waited_for_once_an_iteration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrapper: dict
) -> None:
    """The CPU plays the device: every operator that gives its numbers to Python is counted."""

    class Counter(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.names.append(str(function))
            return function(*args, **kwargs or {})

    waits: list[int] = []
    module = sys.modules[NonFiniteHook.__module__]
    original = torch.Tensor.tolist
    monkeypatch.setattr(module, "_is_on_device", lambda value: isinstance(value, Tensor))
    monkeypatch.setattr(diagnosis, "HOST", "none")
    monkeypatch.setattr(module, "bad_losses", lambda outputs: {})  # of numbers that were read
    monkeypatch.setattr(Tensor, "tolist", lambda t: waits.append(1) or original(t))

    class Spy(Hook):
        priority = "HIGHEST"

        def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
            self.mode, waits[:] = Counter(), []
            self.mode.names = []
            self.mode.__enter__()

        def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
            self.mode.__exit__(None, None, None)
            seen.append((len(waits), sum("_local_scalar_dense" in n for n in self.mode.names)))

    seen: list[tuple[int, int]] = []
    guard = NonFiniteHook()
    train(tmp_path, make_data(4, {}), [guard, Spy()], optim_wrapper=dict(wrapper))
    clips = int("clip_grad" in wrapper)  # MMEngine logs the norm, which the host knows by then
    assert seen == [(1, clips)] * 4
    # the sum and two losses, and what was clipped: all read in that one go
    assert len(guard.read) == 3 + clips


@pytest.mark.slow
def test_user_sees_one_line(tmp_path: Path) -> None:
    done = run_tool(
        tmp_path, "stop", ["a"] * 12, options=["--cfg-options", "optim_wrapper.optimizer.lr=1e30"]
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "train.py: error" in line]
    assert re.search(r"iteration 2 \(epoch 1\): the loss is not finite \(loss=nan\)", line)
    assert re.search(r"in the output of backbone\.[\w.]+ \(\w+\), whose input was finite", line)
    assert f"files: {tmp_path}/images/only/02_a.png, {tmp_path}/images/only/03_a.png" in line
    assert "lower the learning rate" in line


@pytest.mark.slow
@pytest.mark.parametrize("action", ["stop", "skip"])
def test_two_processes_of_which_one_is_bad(tmp_path: Path, action: str) -> None:
    names = ["a"] * 12
    names[7] = "bad"  # the fourth of the second process
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = run_tool(tmp_path, action, names, *start, options=["--launcher", "pytorch"])
    text = (
        r"iteration 2 \(epoch 1\): rank 1: the loss is not finite \(loss=nan\); the data themselves"
        r" are not finite: the image of \S+07_bad\.png; files: \S+05_a\.png, \S+07_bad\.png\."
    )
    log = next(tmp_path.rglob("*.log")).read_text()
    if action == "stop":
        assert done.returncode == 1
        lines = [line for line in done.stderr.splitlines() if "train.py: error" in line]
        assert len(lines) == 1
        assert re.search(text, lines[0])
        assert "rank 0" not in lines[0]
    else:
        assert done.returncode == 0, done.stderr[-3000:]
        assert len(re.findall(rf"step skipped \(1 in a row.*{text}", log)) == 1
        assert "Epoch(train) [1][3/3]" in log
