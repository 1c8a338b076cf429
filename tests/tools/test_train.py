"""tools/train.py and tools/test.py as a user starts them, on a small classifier."""

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import ROOT, run_python

from mmvitconv import cli

pytestmark = pytest.mark.slow

CONFIG = """
default_scope = 'mmpretrain'
custom_imports = dict(imports=['spy_{name}'], allow_failed_imports=False)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet', depth=18, stem_channels=8, base_channels=8, out_indices=(3,)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=64, topk=(1,),
              loss=dict(type='CrossEntropyLoss')))
data_preprocessor = dict(num_classes=2, mean=[127.0] * 3, std=[64.0] * 3, to_rgb=True)
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
dataset = dict(type='CustomDataset', data_root={data!r}, data_prefix='images', with_label=True,
               pipeline=pipeline)
train_dataloader = dict(batch_size=2, num_workers=0, dataset=dataset,
                        sampler=dict(type='DefaultSampler', shuffle=True))
val_dataloader = dict(batch_size=4, num_workers=0, dataset=dataset,
                      sampler=dict(type='DefaultSampler', shuffle=False))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
train_cfg = dict(by_epoch=True, max_epochs=3, val_interval=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
param_scheduler = dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=18)
auto_scale_lr = dict(base_batch_size=16)
default_hooks = dict(
    timer=dict(type='IterTimerHook'), logger=dict(type='LoggerHook', interval=1),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=1, save_best='auto'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='VisualizationHook', enable=False))
visualizer = dict(type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
custom_hooks = [dict(type='SpyHook', out={spy!r})]
randomness = dict(seed=0)
work_dir = {work_dir!r}
"""

# A hook that writes down what it sees and can stop the process in the middle of an epoch.
SPY = """
import json, os, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module(force=True)
class SpyHook(Hook):
    def __init__(self, out):
        self.out = out

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        history = runner.message_hub.log_scalars['train/loss']
        momentum = sum(
            float(state['momentum_buffer'].abs().sum())
            for state in runner.optim_wrapper.optimizer.state.values())
        with open(self.out, 'a') as file:
            file.write(json.dumps(dict(
                iter=runner.iter, epoch=runner.epoch, history=len(history.data[0]),
                momentum=momentum, lr=runner.optim_wrapper.get_lr()['lr'][0],
                loss=float(outputs['loss']))) + '\\n')
        at, accident = os.environ.get('ACCIDENT', '-1:').split(':')
        if runner.iter == int(at):
            exec(accident)
        at, name = os.environ.get('STOP', '-1:SIGKILL').split(':')
        if runner.iter == int(at):
            os.kill(os.getpid(), getattr(signal, name))
"""


class Exploit:
    """Unpickling it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (os.system, (f"touch {self.marker}",))


def write_images(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for label in ("black", "white"):
        (folder / label).mkdir(parents=True)
        for index in range(6):
            low, high = (0, 128) if label == "black" else (128, 256)
            pixels = generator.integers(low, high, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{label}_{index}.png")


def write_config(folder: Path, name: str, extra: str = "") -> Path:
    """Write data, a spy module and a config whose work directory is ``folder/work``."""
    if not (folder / "images").exists():
        write_images(folder / "images")
    spy = folder / f"{name}.jsonl"
    (folder / f"spy_{name}.py").write_text(SPY)
    config = folder / f"{name}.py"
    text = CONFIG.format(
        name=name, data=str(folder), spy=str(spy), work_dir=str(folder / f"work_{name}")
    )
    config.write_text(text + extra)
    return config


def run(tool: str, *arguments: object, folder: Path, **environment: str):
    """Run a tool from the repository root as a user does."""
    path = f"{folder}{os.pathsep}{ROOT}"
    return run_python(f"tools/{tool}", *arguments, check=False, PYTHONPATH=path, **environment)


def read_spy(config: Path) -> list[dict]:
    return [json.loads(line) for line in config.with_suffix(".jsonl").read_text().splitlines()]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys, trained, runner_state):
    """Run a tool inside this process; gives its exit code and what it wrote to stderr."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # has no say
    monkeypatch.syspath_prepend(str(trained[0]))

    def run_tool(tool: str, *arguments: object) -> tuple[int, str]:
        try:
            code = cli.run(tool, *map(str, arguments))
        except SystemExit as stop:
            code = stop.code
        error = capsys.readouterr().err
        assert "Traceback" not in error
        return code, "\n".join(line for line in error.splitlines() if "Warning" not in line)

    return run_tool


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    """A finished run: folder, config, and what the tool printed."""
    folder = tmp_path_factory.mktemp("trained")
    config = write_config(folder, "whole")
    result = run("train.py", config, folder=folder)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder, config, result


def test_training_ends_with_where_the_results_are(trained) -> None:
    folder, _, result = trained
    command, *tail = result.stdout.strip().splitlines()[-4:]
    assert command.startswith("predict with it: mmvitconv predict ")
    assert "/work_whole/best_accuracy_top1_" in command
    assert tail[0] == f"work directory: {folder / 'work_whole'}"
    assert tail[1].startswith(f"best checkpoint: {folder / 'work_whole'}/best_accuracy_top1")
    assert tail[2] == f"last checkpoint: {folder / 'work_whole' / 'epoch_3.pth'}"
    assert "total batch of 16, this run has 2 (1 process(es) x 2 images x 1" in result.stdout
    assert not list((folder / "work_whole").glob("*.partial"))


def test_own_checkpoint_is_plain_data(trained) -> None:
    folder, _, _ = trained
    checkpoint = torch.load(folder / "work_whole" / "epoch_3.pth", weights_only=True)
    assert checkpoint["meta"]["epoch"] == 3
    assert checkpoint["message_hub"]["log_scalars"]["train/loss"]["logs"].numel() == 18


@pytest.mark.parametrize(("signal", "code"), [("SIGKILL", -9), ("SIGINT", 130)])
def test_stopped_run_goes_on_as_if_nothing_had_happened(
    trained, tmp_path: Path, signal: str, code: int
) -> None:
    config = write_config(tmp_path, f"stopped_{signal.lower()}")
    shutil.rmtree(tmp_path / "images")
    shutil.copytree(trained[0] / "images", tmp_path / "images")
    first = run("train.py", config, folder=tmp_path, STOP=f"9:{signal}")
    assert first.returncode == code
    work = tmp_path / f"work_{config.stem}"
    if signal == "SIGINT":
        assert f"--work-dir {work} --resume" in first.stdout.splitlines()[-1]
        assert "Traceback" not in first.stderr
    else:
        # what a write that was cut off leaves behind
        (work / "checkpoint.partial").write_bytes(b"PK")
    assert len(read_spy(config)) == 10

    second = run("train.py", config, "--resume", folder=tmp_path)
    assert second.returncode == 0, second.stderr[-3000:]
    assert f"resuming from {work / 'epoch_1.pth'}" in second.stdout
    again = read_spy(config)[10:]
    whole = read_spy(trained[1])
    # 6 iterations per epoch: from the end of epoch 1, to the same values
    assert [row["iter"] for row in again] == list(range(6, 18))
    assert again == [pytest.approx(row) for row in whole[6:]]
    ours = torch.load(work / "epoch_3.pth", weights_only=True)["state_dict"]
    theirs = torch.load(trained[0] / "work_whole" / "epoch_3.pth", weights_only=True)["state_dict"]
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("accident", "words"),
    [
        ("import shutil; shutil.rmtree(runner.work_dir)", "No such file or directory"),
        ("import shutil; shutil.rmtree(runner.log_dir)", "No such file or directory"),
        ("import pathlib; pathlib.Path(runner.work_dir, 'checkpoint.partial').mkdir()", "director"),
        (
            "import multiprocessing; multiprocessing.active_children()[0].kill()",
            "DataLoader worker|other process has ended",  # its sockets close before it is dead
        ),
    ],
)
def test_accidents_are_one_sentence(
    trained, call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accident: str, words: str
) -> None:
    monkeypatch.setenv("ACCIDENT", f"8:{accident}")  # in the second epoch
    workers = ("--cfg-options", "train_dataloader.num_workers=1")
    code, error = call("train", trained[1], "--work-dir", tmp_path / "work", *workers)
    assert code == 1
    assert error.count("error: ") == 1
    assert re.search(words, error)
    assert "Go on from the last checkpoint: " in error
    if "rmtree(runner.work_dir)" not in accident:
        torch.load(tmp_path / "work" / "epoch_1.pth", weights_only=True)


def test_resume_auto_falls_back_to_a_readable_checkpoint(trained, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    for name in ("epoch_1.pth", "epoch_2.pth"):
        shutil.copy2(trained[0] / "work_whole" / name, work / name)
    cut = (work / "epoch_2.pth").read_bytes()[:-2000]
    (work / "epoch_2.pth").write_bytes(cut)
    (work / "last_checkpoint").write_text(str(work / "epoch_2.pth"))
    options = ("--work-dir", work, "--resume", "--cfg-options", "train_cfg.max_epochs=1")
    result = run("train.py", trained[1], *options, folder=trained[0])
    assert result.returncode == 0, result.stderr[-3000:]
    assert f"{work / 'epoch_2.pth'} is damaged (incomplete)" in result.stdout
    assert f"resuming from {work / 'epoch_1.pth'}" in result.stdout


def test_mixed_precision_learning_rate_scaling_and_no_validation(trained, tmp_path: Path) -> None:
    result = run(
        *("train.py", trained[1], "--work-dir", tmp_path, "--amp", "--auto-scale-lr"),
        *("--no-validate", "--resume"),
        *("--cfg-options", "train_cfg.max_epochs=1", "param_scheduler=None"),
        *("optim_wrapper.accumulative_counts=2",),
        folder=trained[0],
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    assert f"no checkpoint to resume from in {tmp_path}: training starts from scratch" in (
        result.stdout
    )
    # 2 images x 2 accumulated steps of the 16 that the rate of 0.01 is meant for
    assert "lr: 2.5000e-03" in result.stdout
    assert "CPUAmpOptimWrapper" in (tmp_path / "whole.py").read_text()
    assert "Epoch(val)" not in result.stdout
    assert "best checkpoint" not in result.stdout


def test_test_writes_metrics_predictions_and_pictures(trained, tmp_path: Path) -> None:
    folder, config, _ = trained
    out, pictures = tmp_path / "new" / "predictions.pkl", tmp_path / "pictures"
    result = run(
        *(
            "test.py",
            config,
            folder / "work_whole" / "epoch_3.pth",
            "--work-dir",
            tmp_path / "work",
        ),
        *("--out", out, "--show-dir", pictures),
        folder=folder,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    assert "accuracy/top1: " in result.stdout
    predictions = pickle.loads(out.read_bytes())
    assert len(predictions) == 12
    assert f"pictures: 12 in {pictures}" in result.stdout


def test_test_merges_mirror_images(trained, call, tmp_path: Path) -> None:
    folder, config, _ = trained
    out = tmp_path / "predictions.pkl"
    work = ("--work-dir", tmp_path / "work")
    code, error = call(
        "test", config, folder / "work_whole/epoch_3.pth", "--tta", "--out", out, *work
    )
    assert (code, "error" in error) == (0, False)
    assert len(pickle.loads(out.read_bytes())) == 12


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "{folder}/whole.yp"], 1, "there is no config file"),
        (["train", "{config}", "--cfg-options", "model.backbone.depht=18"], 1, "'depth'"),
        (["train", "{config}", "--cfg-options", "no-equals"], 2, "KEY=VALUE"),
        (["train", "{config}", "--cfg-options", "model.backbone.depth=19"], 1, "depth 19"),
        (["train", "{config}", "--resume", "nothing.pth"], 1, "no file 'nothing.pth'"),
        (["train", "{config}", "--cfg-options", "load_from=gone.pth"], 1, "no file 'gone.pth'"),
        (
            [*("train", "{config}", "--cfg-options"), "train_dataloader.dataset.data_root=/none"],
            1,
            "/none",
        ),
        (["train", "{config}", "--launcher", "pytorch"], 1, "tools/dist_train.sh"),
        (["test", "{config}", "{folder}/work_whole/epoch_9.pth"], 1, "epoch_1.pth, epoch_2.pth"),
        (["test", "{config}", "{folder}/whole.py"], 1, "whole.py'"),
        (["test", "{config}", "x.pth", "--out", "x.json"], 2, ".pkl"),
        (["train", "{config}", "--work-dir", "{config}/x"], 1, "cannot be written"),
        (
            ["test", "{config}", "{folder}/work_whole/epoch_1.pth", "--out", "{config}/x.pkl"],
            1,
            "--out: the folder",
        ),
        (["train", "{config}", "--cfg-options", "custom_hooks=[EMAHook]"], 1, "list of dicts"),
        (["print-config", "{config}", "--cfg-options", "modle.x=1"], 1, "'model'"),
    ],
)
def test_wrong_input_is_one_sentence(trained, call, arguments, code, message) -> None:
    folder, config, _ = trained
    filled = [argument.format(folder=folder, config=config) for argument in arguments]
    exit_code, error = call(*filled)
    assert message in error
    assert exit_code == code
    assert error.count("error:") == 1


def test_classification_cannot_draw_augmented_copies(trained, call) -> None:
    folder, config, _ = trained
    checkpoint = folder / "work_whole" / "epoch_1.pth"
    code, error = call("test", config, checkpoint, "--tta", "--show-dir", folder / "pictures")
    assert code == 1
    assert "--show-dir and --tta do not go together" in error


def test_debug_shows_the_traceback(trained, call) -> None:
    with pytest.raises(ValueError, match="did you mean"):
        call("train", trained[1], "--debug", "--cfg-options", "model.backbone.depht=18")


def test_wrong_path_is_noticed_before_torch_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from mmvitconv.cli import run; "
        "print(run('train', 'nowhere.py'), [m for m in sys.modules if m in "
        "('torch', 'mmdet', 'mmseg', 'mmpretrain', 'mmcv')])"
    )
    assert run_python("-c", code).stdout.strip() == "1 []"


@pytest.mark.parametrize("door", ["load_from", "resume", "init_cfg", "test"])
def test_checkpoint_with_code_is_refused_at_every_door(
    trained, call, tmp_path: Path, door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, config, _ = trained
    marker, bad = tmp_path / "marker", tmp_path / "bad.pth"
    good = torch.load(folder / "work_whole" / "epoch_1.pth", weights_only=True)
    torch.save({**good, "extra": Exploit(marker)}, bad)
    arguments = {
        "load_from": ("train", config, "--cfg-options", f"load_from={bad}"),
        "resume": ("train", config, "--resume", bad),
        "init_cfg": (
            *("train", config, "--cfg-options", "model.backbone.init_cfg.type=Pretrained"),
            f"model.backbone.init_cfg.checkpoint={bad}",
        ),
        "test": ("test", config, bad),
    }[door]
    code, error = call(*arguments, "--work-dir", tmp_path / f"work_{door}")
    assert code == 1
    assert str(bad) in error
    assert "refused" in error
    assert error.count("error:") == 1
    assert not marker.exists()
    # the file is armed, or the test would prove nothing
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    torch.load(bad, weights_only=False)
    assert marker.exists()


def test_checkpoint_of_another_model_is_refused(trained, call, tmp_path: Path) -> None:
    folder, config, _ = trained
    state = torch.load(folder / "work_whole" / "epoch_1.pth", weights_only=True)["state_dict"]
    other = {key: value for key, value in state.items() if "layer4" not in key}
    torch.save({"state_dict": other}, tmp_path / "other.pth")
    options = ("--cfg-options", f"load_from={tmp_path / 'other.pth'}")
    code, error = call("train", config, "--work-dir", tmp_path / "work", *options)
    assert code == 1
    assert "backbone.layer4" in error
    assert str(tmp_path / "other.pth") in error


def test_weights_alone_cannot_be_resumed(trained, call, tmp_path: Path) -> None:
    folder, config, _ = trained
    state = torch.load(folder / "work_whole" / "epoch_1.pth", weights_only=True)["state_dict"]
    torch.save({"state_dict": state}, tmp_path / "weights.pth")
    resume = ("--resume", tmp_path / "weights.pth")
    code, error = call("train", config, "--work-dir", tmp_path / "work", *resume)
    assert code == 1
    assert "load_from=PATH instead of --resume" in error


def test_print_config(trained) -> None:
    folder, config, _ = trained
    options = ("--cfg-options", "train_cfg.max_epochs=7")
    result = run("misc/print_config.py", config, *options, folder=folder)
    assert result.returncode == 0, result.stderr
    assert "max_epochs=7" in result.stdout
