from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from mmengine.registry import HOOKS, MODELS, OPTIM_WRAPPERS, DefaultScope
from mmengine.structures import InstanceData
from torch import nn

from mmvitconv.engine.amp import CPUAmpOptimWrapper
from mmvitconv.engine.configuration import load_config
from mmvitconv.errors import UserError

if TYPE_CHECKING:
    from mmdet.structures import DetDataSample


def test_forward_is_bfloat16_and_weights_stay_float32() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapper = OPTIM_WRAPPERS.build({"type": "mmvitconv.CPUAmpOptimWrapper", "optimizer": optimizer})
    before = model.weight.detach().clone()
    with wrapper.optim_context(model):
        outputs = model(torch.rand(3, 4))
    assert outputs.dtype is torch.bfloat16
    wrapper.update_params(outputs.float().sum())
    assert model.weight.dtype is torch.float32
    assert not torch.equal(model.weight, before)
    assert model(torch.rand(3, 4)).dtype is torch.float32


def test_other_precision_is_refused() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    with pytest.raises(UserError, match=r"bfloat16.* only, got 'float16'"):
        CPUAmpOptimWrapper(dtype="float16", optimizer=optimizer)


def make_mask_rcnn() -> nn.Module:
    """The nuclei Mask R-CNN, for images of any size."""
    cfg = load_config("configs/fcvit/maskrcnn_fcvit_tiny_nuclei.py")
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(cfg.model)


def make_sample(height: int, width: int) -> "DetDataSample":
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    shape = (height, width)
    names = ("img_shape", "ori_shape", "pad_shape", "batch_input_shape")
    sample = DetDataSample(metainfo={"img_id": 0, "scale_factor": (1.0, 1.0)})
    sample.set_metainfo(dict.fromkeys(names, shape))
    box = torch.tensor([[width - 41.0, 10.0, width - 1.0, 50.0]])
    masks = BitmapMasks(np.ones((1, height, width), dtype=np.uint8), height, width)
    sample.gt_instances = InstanceData(bboxes=box, labels=torch.zeros(1).long(), masks=masks)
    return sample


def test_boxes_of_mask_rcnn_are_not_rounded() -> None:
    torch.manual_seed(0)
    model = make_mask_rcnn()
    keys = list(model.state_dict())
    hook = HOOKS.build({"type": "mmvitconv.Float32BoxesHook"})
    for _ in range(2):  # the runner may call it again
        hook.before_run(SimpleNamespace(model=model))
    assert len(model.neck._forward_hooks) == 1
    assert list(model.state_dict()) == keys

    rois, anchors, computed = [], [], []
    pooled = model.roi_head.bbox_roi_extractor.roi_layers[0]
    pooled.register_forward_pre_hook(lambda _, inputs: rois.append(inputs[1]))
    generator = model.rpn_head.prior_generator
    grid_priors = generator.grid_priors
    generator.grid_priors = lambda *args, **kwargs: (
        anchors.extend(grid_priors(*args, **kwargs)) or grid_priors(*args, **kwargs)
    )
    for layer in (model.neck.fpn_convs[0], model.roi_head.bbox_head.shared_fcs[0]):
        layer.register_forward_hook(lambda _, __, outputs: computed.append(outputs.dtype))
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model.loss(torch.rand(1, 3, 64, 1344), [make_sample(64, 1344)])
    assert computed == [torch.bfloat16, torch.bfloat16]  # still mixed precision
    assert {boxes.dtype for boxes in rois + anchors} == {torch.float32}
    right = torch.cat([boxes[:, 3] for boxes in rois])
    # bfloat16 would leave multiples of 4 and 8 only
    assert ((right > 512) & (right < 1344) & (right % 4 != 0)).any()
    total, _ = model.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total)


def test_models_without_boxes_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(1, 1))
    HOOKS.build({"type": "mmvitconv.Float32BoxesHook"}).before_run(SimpleNamespace(model=model))
    assert not any(module._forward_hooks for module in model.modules())
