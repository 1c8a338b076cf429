"""Session fixtures: tiny real data sets, random cases, and counts of what was tried.

The data sets are converted once into the repository's data folder.

Random cases come from hypothesis, through ``@given`` or, where each architecture has cases of its
own, through the fixture ``search``. They are the same in every run. To try others::

    pytest FILE --hypothesis-seed=7                               # other cases, as many
    pytest FILE --hypothesis-profile=explore                      # ten times as many, any
    pytest FILE --hypothesis-profile=explore --hypothesis-seed=7  # ten times as many, the same

Counts: a test that takes the fixture ``count`` calls ``count("shapes tried")`` or
``count("files refused", 3)``. Where the environment variable MMVITCONV_TEST_COUNTS names a file,
the session ends with writing all of them to it, as a JSON object: ``{"shapes tried": 412, ...}``.
"""

import json
import logging
import os
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from filelock import FileLock
from hypothesis import Phase, example, given, seed, settings
from hypothesis.strategies import SearchStrategy
from mmengine.logging import MessageHub, MMLogger
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader
from mmengine.visualization import Visualizer

from mmvitconv.datasets.first_runs import digits, nuclei, trees
from mmvitconv.engine.checkpoint import use_safe_loading

DATA = Path(__file__).resolve().parents[1] / "data"
# The family whose tests of graphs (compiled, exported) `make test` runs; `make test-all` has all.
QUICK = "ConvMixer"
COUNTS = pytest.StashKey[Counter]()

# hypothesis's own profile: the same cases in every run, no database, no deadlines, and no complaint
# about slow cases, since building a backbone takes longer than hypothesis expects of a case.
CI = settings.get_profile("ci")
settings.register_profile("explore", CI, derandomize=False, max_examples=1000)
settings.register_profile("seeded", CI, derandomize=False)


def pytest_configure(config: pytest.Config) -> None:
    """Choose the profile; hypothesis's own plugin does it afterwards where one is named."""
    config.stash[COUNTS] = Counter()
    is_seeded = config.getoption("--hypothesis-seed") is not None
    settings.load_profile("seeded" if is_seeded else "ci")


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests of graphs as slow, but for those of one family."""
    for item in items:
        if item.get_closest_marker("graph"):
            case = item.callspec.params.values() if hasattr(item, "callspec") else ()
            if QUICK not in [value for value in case if isinstance(value, str)]:
                item.add_marker(pytest.mark.slow)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the counts where the environment asks for them."""
    counts = dict(sorted(session.config.stash[COUNTS].items()))
    path = os.environ.get("MMVITCONV_TEST_COUNTS")
    if hasattr(session.config, "workeroutput"):  # one of several processes (pytest -n)
        session.config.workeroutput["counts"] = counts
    elif path:
        Path(path).write_text(json.dumps(counts, indent=2) + "\n")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Add the counts of a process that has ended."""
    node.config.stash[COUNTS].update(getattr(node, "workeroutput", {}).get("counts", {}))


@pytest.fixture(autouse=True)
def _loading_of_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take back what tools that run inside a test decide for the whole process."""
    for name in ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        monkeypatch.setenv(name, "0")  # or monkeypatch would not restore it
        monkeypatch.delenv(name)
    monkeypatch.setattr(CheckpointLoader, "_schemes", CheckpointLoader._schemes.copy())


@pytest.fixture(autouse=True)
def _no_closed_logs() -> None:
    """Take closed log files from loggers: MMEngine writes into each that its loggers name.

    A web server that starts in this process (uvicorn configures logging) closes all of them.
    """
    for logger in MMLogger._instance_dict.values():
        for handler in list(logger.handlers):
            if isinstance(handler, logging.FileHandler) and handler.stream is None:
                logger.removeHandler(handler)


@pytest.fixture(autouse=True)
def _no_default_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start as a new process does: runners of earlier tests leave the scope of their config."""
    monkeypatch.setattr(DefaultScope, "_instance_dict", type(DefaultScope._instance_dict)())


@pytest.fixture
def runner_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loggers and the rank that a runner sets for the whole process are put back."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    for manager in (MMLogger, MessageHub, Visualizer):
        monkeypatch.setattr(manager, "_instance_dict", manager._instance_dict.copy())


@pytest.fixture
def safe_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are read as the tools read them; an environment that forbids it has no say."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    use_safe_loading()


@pytest.fixture
def scaler_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """MMEngine's AmpOptimWrapper without a GPU; the scaler itself works on the CPU."""
    module = sys.modules[AmpOptimWrapper.__module__]
    monkeypatch.setattr(module, "is_cuda_available", lambda: True)
    monkeypatch.setattr(module, "GradScaler", partial(torch.amp.GradScaler, "cpu"))


@pytest.fixture(scope="session")
def count(request: pytest.FixtureRequest) -> Callable[..., None]:
    """A function that adds to a named number of the session: ``count(name, number=1)``."""
    counts = request.config.stash[COUNTS]

    def add(name: str, number: int = 1) -> None:
        counts[name] += number

    return add


@pytest.fixture
def search(request: pytest.FixtureRequest) -> Callable[..., None]:
    """A function that checks random cases, other ones in each parametrised test.

    ``search(check, cases, examples, known)`` calls ``check(case)`` for all of ``known`` and for
    ``examples`` draws from the strategy ``cases``; the profile ``explore`` makes it ten times as
    many. A failure shows the simplest case that fails.
    """
    chosen = request.config.getoption("--hypothesis-seed")

    def run(
        check: Callable[[Any], None],
        cases: SearchStrategy,
        examples: int,
        known: Iterable[Any] = (),
    ) -> None:
        scaled = max(1, examples * settings.default.max_examples // CI.max_examples)

        # Without explanations of failures, which run a case hundreds of times.
        @settings(max_examples=scaled, phases=set(Phase) - {Phase.explain})
        @given(case=cases)
        def try_case(case: Any) -> None:
            check(case)

        if chosen != "random" and (chosen is not None or settings.default.derandomize):
            try_case = seed(zlib.crc32(f"{chosen} {request.node.name}".encode()))(try_case)
        for case in known:
            try_case = example(case=case)(try_case)
        try_case()

    return run


def converted(data_set: ModuleType, name: str) -> Path:
    """Convert a data set once, also where tests run in several processes (pytest -n)."""
    DATA.mkdir(exist_ok=True)
    with FileLock(DATA / ".lock"):
        data_set.convert(DATA / name)
    return DATA / name


@pytest.fixture(scope="session")
def nuclei_root() -> Path:
    """Folder of the nuclei, COCO and ADE20K layout; downloads 3 MB on the first use."""
    return converted(nuclei, "nuclei")


@pytest.fixture(scope="session")
def trees_root() -> Path:
    """Folder of the trees, COCO layout; downloads 21 MB on the first use."""
    return converted(trees, "trees")


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """Folder of the digits, ImageNet layout; downloads 1.4 MB on the first use."""
    return converted(digits, "mnist")
