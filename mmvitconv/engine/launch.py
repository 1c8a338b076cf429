"""Training and testing: from a command line to MMEngine's runner.

``tools/train.py`` and ``mmvitconv train`` are the same, and so are those that test.

The order is: arguments, config, ``--cfg-options``, data, checkpoints, and only then the imports and
the building that take long, so that a mistake is named at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from mmengine.config import Config, ConfigDict

from mmvitconv.datasets.layout import check_data
from mmvitconv.engine.configuration import add_config_arguments, apply_options, load_config
from mmvitconv.engine.resume import find_resumable
from mmvitconv.engine.tasks import (
    dump_predictions,
    enable_pictures,
    enable_test_time_augmentation,
)
from mmvitconv.engine.torchrun import STARTED_VARIABLE
from mmvitconv.errors import UserError

if TYPE_CHECKING:
    from mmengine.runner import Runner

LAUNCHERS = ("none", "pytorch", "slurm", "mpi")
LOCAL_RANK_VARIABLES = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
# MMEngine's loops and ours that resume exactly
EXACT_LOOPS = {
    "EpochBasedTrainLoop": "mmvitconv.ResumableEpochLoop",
    "IterBasedTrainLoop": "mmvitconv.ResumableIterLoop",
}
INTERRUPTED = 130  # what shells return for a command ended by Ctrl-C


@dataclass
class Session:
    """What the handling of errors has to know about the running tool.

    Attributes:
        program: The tool's name, in its usage and before its errors.
        launcher: How the process was started, one of :data:`LAUNCHERS`.
        debug: Show tracebacks always.
        running: The loop over the data has begun.
        advice: Line that is printed after Ctrl-C.
    """

    program: str
    launcher: str = "none"
    debug: bool = False
    running: bool = False
    advice: str = ""

    def begin(self) -> None:
        """Note that everything is built."""
        self.running = True

    def say(self, text: str) -> None:
        """Print a line, from one process per machine.

        Args:
            text: The line.
        """
        if speaks(self.launcher):
            print(text, flush=True)


def run_training(argv: Sequence[str] | None = None, program: str = "train.py") -> int:
    """Run ``tools/train.py`` or ``mmvitconv train``.

    Args:
        argv: Arguments without the program's name; default: the command line.
        program: The name in the usage and before errors.

    Returns:
        Exit code: 0, 1 after an error, 130 after Ctrl-C.
    """
    return run_tool(program, _train, argv)


def run_testing(argv: Sequence[str] | None = None, program: str = "test.py") -> int:
    """Run ``tools/test.py`` or ``mmvitconv test``.

    Args:
        argv: Arguments without the program's name; default: the command line.
        program: The name in the usage and before errors.

    Returns:
        Exit code: 0, 1 after an error, 130 after Ctrl-C.
    """
    return run_tool(program, _test, argv)


def run_print_config(argv: Sequence[str] | None = None) -> int:
    """Run ``tools/misc/print_config.py``.

    Args:
        argv: Arguments without the program's name; default: the command line.

    Returns:
        Exit code: 0, or 1 after an error.
    """
    return run_tool("print_config.py", _print_config, argv)


def run_tool(
    program: str,
    tool: Callable[[Session, Sequence[str] | None], None],
    argv: Sequence[str] | None,
) -> int:
    """Run a tool and turn its errors into one line each.

    Until the loop over the data begins, every exception is a mistake in the input or the config and
    is shown as one line. Afterwards only :class:`UserError` is.

    Args:
        program: Name to print before an error.
        tool: The work; it fills the session.
        argv: Arguments of the tool.

    Returns:
        Exit code.
    """
    session = Session(program)
    try:
        tool(session, argv)
    except KeyboardInterrupt:
        if session.debug:
            raise
        session.say(f"\n{program}: interrupted. {session.advice}".rstrip())
        return INTERRUPTED
    except Exception as error:
        cause = root_cause(error)
        if session.debug or (session.running and not isinstance(cause, UserError)):
            raise
        if speaks(session.launcher) or getattr(cause, "of_one_process", False):
            print(
                f"{program}: error: {describe(cause)} (--debug shows the traceback)",
                file=sys.stderr,
                flush=True,
            )
        return 1
    return 0


def speaks(launcher: str) -> bool:
    """Tell whether this process prints for its machine.

    Args:
        launcher: One of :data:`LAUNCHERS`.

    Returns:
        True for a single process and for the first process of each machine.
    """
    if launcher == "none":
        return True
    ranks = [os.environ[name] for name in LOCAL_RANK_VARIABLES if name in os.environ]
    return not ranks or ranks[0] == "0"


def root_cause(error: BaseException) -> BaseException:
    """Return the exception that says what is wrong.

    MMEngine wraps an exception of a class it builds in another of the same type whose message
    contains the original one.

    Args:
        error: The exception that arrived.

    Returns:
        The innermost wrapped exception, but no deeper than a :class:`UserError` that was raised
        from another exception on purpose.
    """
    while True:
        cause, context = error.__cause__, error.__context__
        if cause is not None:
            if isinstance(error, UserError):
                return error
            error = cause
        elif context is not None and str(context) and str(context) in str(error):
            error = context
        else:
            return error


def describe(error: BaseException) -> str:
    """Return the message of an exception, with its type where that is needed.

    Args:
        error: Any exception.

    Returns:
        The message; all but a :class:`UserError`, which may show a folder, on one line.
    """
    if isinstance(error, UserError):
        return str(error)
    # str() of a KeyError is the repr of its message
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    text = " ".join(str(message).split())
    if not text or " " not in text or isinstance(error, (TypeError, ImportError)):
        return f"{type(error).__name__}: {text}".rstrip(": ")
    return text


def _train(session: Session, argv: Sequence[str] | None) -> None:
    """Train a model.

    Args:
        session: Filled for the handling of errors.
        argv: Command-line arguments.

    Raises:
        UserError: When the input cannot work.
    """
    args = _train_parser(session.program).parse_args(argv)
    cfg = _start(session, args)
    require(cfg, ("train_dataloader", "train_cfg", "optim_wrapper"), "to train")
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    splits = ("train",) if cfg.get("val_dataloader") is None else ("train", "val")
    check_data(cfg, splits=splits)
    _choose_start(session, cfg, args.resume)
    _check_pretrained(cfg.model, "model")
    if args.auto_scale_lr:
        if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
            raise UserError(
                "--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=N) in the config: the "
                "total batch for which its learning rate is meant"
            )
        cfg.auto_scale_lr.enable = True
    if args.amp:
        _enable_amp(cfg)
    command = "python tools/train.py" if session.program == "train.py" else session.program
    session.advice = (
        f"Go on from the last checkpoint: {command} {args.config} "
        f"--work-dir {cfg.work_dir} --resume"
    )

    choose_exact_loop(cfg)

    runner = _build(session, cfg, args)
    _check_batch_size(runner)
    with _explaining(session, cfg, splits):
        runner.train()
    session.say(_summarise(runner))
    _finish()


def _test(session: Session, argv: Sequence[str] | None) -> None:
    """Test a checkpoint.

    Args:
        session: Filled for the handling of errors.
        argv: Command-line arguments.

    Raises:
        UserError: When the input cannot work.
    """
    parser = _test_parser(session.program)
    args = parser.parse_args(argv)
    if args.out and not args.out.endswith((".pkl", ".pickle")):
        parser.error(f"--out writes a .pkl or .pickle file, got {args.out!r}")
    cfg = _start(session, args)
    require(cfg, ("test_dataloader", "test_cfg", "test_evaluator"), "to test")
    check_data(cfg, splits=("test",))
    cfg.load_from = check_checkpoint(args.checkpoint, "checkpoint")
    cfg.resume = False
    if args.amp:
        cfg.test_cfg["fp16"] = True
    if args.out:
        require_writable(Path(args.out).parent, "--out")
    if args.show_dir:
        require_writable(Path(args.show_dir), "--show-dir")
        if args.tta and cfg.get("default_scope") == "mmpretrain":
            raise UserError(
                "--show-dir and --tta do not go together for classification: mmpretrain draws the "
                "one image that the model saw; draw without --tta"
            )
        enable_pictures(cfg, args.show_dir)
    if args.tta:
        enable_test_time_augmentation(cfg)

    runner = _build(session, cfg, args)
    if args.out:
        from mmengine.registry import METRICS

        runner.test_evaluator.metrics.append(METRICS.build(dump_predictions(cfg, args.out)))
    with _explaining(session, cfg, ("test",)):
        metrics = runner.test()
    for name, value in metrics.items():
        session.say(f"{name}: {value}")
    session.say(f"log: {runner.log_dir}")
    if args.show_dir:
        written = [path for path in Path(args.show_dir).rglob("*") if path.suffix in PICTURES]
        session.say(f"pictures: {len(written)} in {args.show_dir}")
    if args.out:
        session.say(f"predictions: {args.out}")
    _finish()


def _print_config(session: Session, argv: Sequence[str] | None) -> None:
    """Print a config with its bases and options merged.

    Args:
        session: Filled for the handling of errors.
        argv: Command-line arguments.

    Raises:
        UserError: When the config or an option cannot work.
    """
    parser = argparse.ArgumentParser(session.program, description="Print a whole config.")
    add_config_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    args = parser.parse_args(argv)
    session.debug = args.debug
    cfg = load_config(args.config)
    for note in apply_options(cfg, args.cfg_options):
        print(f"# {note}")
    print(cfg.pretty_text)


def require(cfg: Config, keys: Sequence[str], purpose: str) -> None:
    """Raise unless a config has all of ``keys``.

    Args:
        cfg: The config.
        keys: Names of top-level settings.
        purpose: What the settings are for, e.g. ``'to train'``.

    Raises:
        UserError: When one is missing or ``None``.
    """
    missing = [key for key in ("model", *keys) if cfg.get(key) is None]
    if missing:
        raise UserError(f"the config has no {', '.join(missing)}, which it needs {purpose}")


def check_checkpoint(path: str, role: str) -> str:
    """Raise unless a checkpoint exists.

    Args:
        path: Local path; addresses with a scheme (``https://``) pass unchecked.
        role: What the checkpoint is called in the message.

    Returns:
        The path.

    Raises:
        UserError: When there is no such file.
    """
    if "://" in path or Path(path).expanduser().is_file():
        return path
    folder = Path(path).expanduser().parent
    others = sorted(other.name for other in folder.glob("*.pth")) if folder.is_dir() else []
    hint = f"; {folder} holds {', '.join(others[:6])}" if others else ""
    raise UserError(f"{role}: there is no file {path!r}{hint}")


def require_writable(folder: Path, option: str) -> None:
    """Create a folder, or raise when it cannot be written.

    Args:
        folder: The folder.
        option: The command-line option that names it.

    Raises:
        UserError: When the folder cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{option}: the folder {str(folder)!r} cannot be written ({error.strerror}); "
            "give another one"
        ) from error


def choose_exact_loop(cfg: Config) -> None:
    """Put a loop that resumes exactly in the place of MMEngine's; one of another kind stays.

    Args:
        cfg: Config of a training, changed in place.
    """
    kind = cfg.train_cfg.get("type")
    if kind is None:
        kind = "EpochBasedTrainLoop" if cfg.train_cfg.get("by_epoch") else "IterBasedTrainLoop"
    name = kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__
    if name in EXACT_LOOPS:
        cfg.train_cfg.type = EXACT_LOOPS[name]
        cfg.train_cfg.pop("by_epoch", None)


def _base_parser(program: str, description: str) -> argparse.ArgumentParser:
    """Return a parser with what training and testing have in common."""
    parser = argparse.ArgumentParser(program, description=description)
    add_config_arguments(parser)
    parser.add_argument(
        "--work-dir", help="where logs and checkpoints go (default: work_dirs/NAME-OF-CONFIG)"
    )
    parser.add_argument(
        "--launcher",
        choices=LAUNCHERS,
        default="none",
        help="how the processes of a distributed run are started",
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile the backbone")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    # old launchers pass the rank on the command line
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser


def _train_parser(program: str) -> argparse.ArgumentParser:
    """Return the parser of ``tools/train.py`` and ``mmvitconv train``."""
    parser = _base_parser(program, "Train a classifier, detector or segmentor.")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="PATH",
        help="go on from a checkpoint, or without PATH from the last one in the work directory",
    )
    parser.add_argument(
        "--amp", action="store_true", help="mixed precision with bfloat16, on GPU and CPU"
    )
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="multiply the learning rate by total batch / auto_scale_lr.base_batch_size",
    )
    parser.add_argument("--no-validate", action="store_true", help="train without validation")
    return parser


def _test_parser(program: str) -> argparse.ArgumentParser:
    """Return the parser of ``tools/test.py`` and ``mmvitconv test``."""
    parser = _base_parser(program, "Test a checkpoint of a classifier, detector or segmentor.")
    parser.add_argument("checkpoint", help="the checkpoint to test")
    parser.add_argument("--out", metavar="FILE", help="write the predictions to a .pkl file")
    parser.add_argument("--show-dir", metavar="DIR", help="write a picture of every prediction")
    parser.add_argument(
        "--tta",
        action="store_true",
        help="merge augmented copies of each image (tta_model and tta_pipeline of the config; "
        "default: the image and its mirror image)",
    )
    parser.add_argument(
        "--amp", action="store_true", help="mixed precision (float16 on GPUs, bfloat16 on CPUs)"
    )
    return parser


def _start(session: Session, args: argparse.Namespace) -> Config:
    """Load the config of a run and merge the command line into it."""
    session.debug, session.launcher = args.debug, args.launcher
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    cfg = load_config(args.config)
    for note in apply_options(cfg, args.cfg_options):
        session.say(f"warning: {note}")
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("work_dirs", Path(cfg.filename).stem))
    cfg.launcher = args.launcher
    return cfg


def _choose_start(session: Session, cfg: Config, resume: str | None) -> None:
    """Set ``resume`` and ``load_from`` of the config from ``--resume``."""
    if STARTED_VARIABLE in os.environ:
        # this may be a start after a process died: go on from what this run has written, not from
        # what an earlier one had left in the work directory (torchrun's own count of restarts does
        # not grow on the machines that survived)
        written, _ = find_resumable(cfg.work_dir, float(os.environ[STARTED_VARIABLE]))
        resume = resume if written is None else str(written)
    if resume is None and not cfg.get("resume"):
        if cfg.get("load_from"):
            check_checkpoint(cfg.load_from, "load_from")
        return
    named = {None: cfg.get("load_from"), "auto": None}.get(resume, resume)
    if named and not Path(named).is_dir():
        cfg.resume = True
        cfg.load_from = check_checkpoint(named, "--resume")
        session.say(f"resuming from {cfg.load_from}")
        return
    place = Path(named or cfg.work_dir)
    found, warnings = find_resumable(place)
    for warning in warnings:
        session.say(f"warning: {warning}")
    cfg.resume = found is not None
    if found is not None:
        cfg.load_from = str(found)
        session.say(f"resuming from {found}")
        return
    source = "from scratch"
    if cfg.get("load_from"):
        source = f"from {check_checkpoint(cfg.load_from, 'load_from')}"
    session.say(f"no checkpoint to resume from in {place}: training starts {source}")


def _check_pretrained(node: Any, place: str) -> None:
    """Raise unless the file of every ``init_cfg`` of type Pretrained exists."""
    if isinstance(node, dict):
        kind, file = node.get("type"), node.get("checkpoint")
        if isinstance(kind, str) and kind.endswith("Pretrained") and isinstance(file, str):
            check_checkpoint(file, place)
        for key, value in node.items():
            _check_pretrained(value, f"{place}.{key}")
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            _check_pretrained(value, f"{place}.{index}")


def _enable_amp(cfg: Config) -> None:
    """Make the optimizer wrapper use bfloat16."""
    kind = cfg.optim_wrapper.get("type", "OptimWrapper")
    if kind not in ("OptimWrapper", "AmpOptimWrapper"):
        raise UserError(f"--amp cannot replace optim_wrapper.type={kind!r}: it needs OptimWrapper")
    cfg.optim_wrapper.type = "AmpOptimWrapper"
    cfg.optim_wrapper.setdefault("dtype", "bfloat16")


def _build(session: Session, cfg: Config, args: argparse.Namespace) -> Runner:
    """Import what is heavy and build the runner."""
    require_writable(Path(cfg.work_dir), "--work-dir")
    cfg.custom_hooks = list(cfg.get("custom_hooks") or [])
    if not all(isinstance(hook, dict) for hook in cfg.custom_hooks):
        raise UserError(
            f"custom_hooks must be a list of dicts with a type, got {cfg.custom_hooks!r}"
        )
    from mmengine.device import get_device
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    from mmvitconv.engine.checkpoint import use_safe_loading
    from mmvitconv.engine.distributed import prepare_distributed
    from mmvitconv.engine.loop_marker import LoopMarker

    use_safe_loading()
    prepare_distributed(cfg, args.launcher)
    wrapper = cfg.get("optim_wrapper") or {}
    wanted = ["mmvitconv.SafeCheckpointHook", "mmvitconv.BadDataHook", "mmvitconv.NonFiniteHook"]
    if args.amp or wrapper.get("type") == "AmpOptimWrapper":
        wanted.append("mmvitconv.Float32BoxesHook")
    if wrapper.get("type") == "AmpOptimWrapper" and get_device() == "cpu":
        wrapper["type"] = "mmvitconv.CPUAmpOptimWrapper"
    if args.compile:
        wanted.append("mmvitconv.CompileBackboneHook")
    present = {hook.get("type") for hook in cfg.custom_hooks}
    cfg.custom_hooks += [ConfigDict(type=kind) for kind in wanted if kind not in present]
    runner = RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
    runner.register_hook(LoopMarker(session.begin))
    return runner


@contextmanager
def _explaining(session: Session, cfg: Config, splits: Sequence[str]) -> Iterator[None]:
    """Say what is wrong with the annotations where a dataset cannot be built from them."""
    try:
        yield
    except Exception as error:
        from mmvitconv.checks.annotations import explain_annotations  # imports Pillow

        found = "" if session.running else explain_annotations(cfg, splits)
        if not found or isinstance(root_cause(error), UserError):
            raise
        raise UserError(found) from error


def _check_batch_size(runner: Runner) -> None:
    """Compare the total batch with the one that the learning rate is meant for."""
    settings = getattr(runner, "auto_scale_lr", None) or {}  # FlexibleRunner has none
    base = settings.get("base_batch_size")
    per_process = runner.cfg.train_dataloader.get("batch_size")
    if base is None or per_process is None:
        return
    accumulated = runner.cfg.optim_wrapper.get("accumulative_counts", 1)
    total = runner.world_size * per_process * accumulated
    if settings.get("enable"):
        # MMEngine's scaling leaves accumulation out
        runner.auto_scale_lr = dict(settings, base_batch_size=base / accumulated)
        runner.logger.info(f"learning rate x {total / base:g} (total batch {total}, config {base})")
    elif total != base:
        runner.logger.warning(
            f"the learning rate of this config is meant for a total batch of {base}, this run has "
            f"{total} ({runner.world_size} process(es) x {per_process} images x {accumulated} "
            "accumulated): --auto-scale-lr adapts the learning rate"
        )


def _summarise(runner: Runner) -> str:
    """Return where a finished run left its results."""
    lines = [f"work directory: {runner.work_dir}"]
    information = runner.message_hub.runtime_info
    for key in sorted(information):
        if key.startswith("best_ckpt"):
            score = information.get(key.replace("best_ckpt", "best_score"))
            lines.append(f"best checkpoint: {information[key]} (score {score})")
    pointer = Path(runner.work_dir, "last_checkpoint")
    if pointer.is_file():
        lines.append(f"last checkpoint: {pointer.read_text().strip()}")
    return "\n".join(lines)


def _finish() -> None:
    """Leave the process group of a distributed run."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
