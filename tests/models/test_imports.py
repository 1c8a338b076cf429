"""Models and operators rest on torch and MMEngine alone, and importing them is cheap."""

import subprocess
import sys

# None in sys.modules: Python finds no such module.
BLOCKED = ("torchvision", "timm", "triton", "mmcv", "mmdet", "mmseg", "mmpretrain")
ALONE = f"""
import sys
sys.modules.update(dict.fromkeys({BLOCKED}))
import mmvitconv
assert "torch" not in sys.modules
import torch
import mmvitconv.ops
from mmvitconv.models import FCViT, LightViTFPN
backbone = FCViT("tiny", out_indices=0)
backbone(torch.zeros(1, 3, 32, 32))[0].sum().backward()
model = mmvitconv.create_model("fcvit_tiny", num_classes=2).eval()
assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 2)
mmvitconv.create_transform(model)
"""
COST = """
import time
start = time.process_time()
import torch, mmengine.model
middle = time.process_time()
from mmvitconv.models import FCViT
print((time.process_time() - middle) / (middle - start))
"""


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_the_projects_above():
    run(ALONE)


def test_cost_of_the_import():
    """0.2 s where torch and mmengine.model take 1 s, on however fast a machine."""
    assert min(float(run(COST)) for _ in range(3)) <= 0.2
