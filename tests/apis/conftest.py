from pathlib import Path

import pytest
from apis.tiny import CONFIGS, save_checkpoint

from mmvitconv.apis import Predictor


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random weights of one model per task."""
    folder = tmp_path_factory.mktemp("checkpoints")
    meta = {"dataset_meta": {"classes": [f"digit {number}" for number in range(10)]}}
    return {
        task: save_checkpoint(task, folder, meta if task == "classification" else None)
        for task in CONFIGS
    }


@pytest.fixture(scope="session")
def predictors(checkpoints: dict[str, Path]) -> dict[str, Predictor]:
    """One model per task, on the CPU."""
    few = {"detection": {"model.test_cfg.rcnn.max_per_img": 10}}  # quickly drawn
    return {
        task: Predictor(CONFIGS[task], checkpoints[task], "cpu", few.get(task)) for task in CONFIGS
    }


@pytest.fixture(params=sorted(CONFIGS))
def predictor(request: pytest.FixtureRequest, predictors: dict[str, Predictor]) -> Predictor:
    """Each of them in turn."""
    return predictors[request.param]
