"""Child registries of MMEngine's root registries, scope ``mmvitconv``.

MMEngine imports ``<scope>.registry`` by itself when it meets a prefixed type, and a registry
imports its ``locations`` on first use. So ``type='mmvitconv.FCViT'`` works in any MM project
without ``custom_imports``.
"""

from mmengine.registry import DATA_SAMPLERS as ENGINE_DATA_SAMPLERS
from mmengine.registry import HOOKS as ENGINE_HOOKS
from mmengine.registry import LOOPS as ENGINE_LOOPS
from mmengine.registry import MODEL_WRAPPERS as ENGINE_MODEL_WRAPPERS
from mmengine.registry import MODELS as ENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as ENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as ENGINE_OPTIM_WRAPPERS
from mmengine.registry import PARAM_SCHEDULERS as ENGINE_PARAM_SCHEDULERS
from mmengine.registry import STRATEGIES as ENGINE_STRATEGIES
from mmengine.registry import TRANSFORMS as ENGINE_TRANSFORMS
from mmengine.registry import Registry

__all__ = [
    "DATA_SAMPLERS",
    "HOOKS",
    "LOOPS",
    "MODELS",
    "MODEL_WRAPPERS",
    "OPTIM_WRAPPERS",
    "OPTIM_WRAPPER_CONSTRUCTORS",
    "PARAM_SCHEDULERS",
    "STRATEGIES",
    "TRANSFORMS",
]

SCOPE = "mmvitconv"
MODELS = Registry("model", parent=ENGINE_MODELS, scope=SCOPE, locations=["mmvitconv.models"])
HOOKS = Registry(
    "hook",
    parent=ENGINE_HOOKS,
    scope=SCOPE,
    locations=[
        "mmvitconv.engine.amp",
        "mmvitconv.checks.bad_data",
        "mmvitconv.engine.checkpoint",
        "mmvitconv.engine.compile_backbone",
        "mmvitconv.engine.distillation",
        "mmvitconv.engine.folding",
        "mmvitconv.engine.initial_weights",
        "mmvitconv.engine.pictures",
        "mmvitconv.checks.non_finite",
        "mmvitconv.checks.rehearsal",
        "mmvitconv.checks.zero_loss",
    ],
)
LOOPS = Registry("loop", parent=ENGINE_LOOPS, scope=SCOPE, locations=["mmvitconv.engine.loops"])
MODEL_WRAPPERS = Registry(
    "model_wrapper",
    parent=ENGINE_MODEL_WRAPPERS,
    scope=SCOPE,
    locations=["mmvitconv.engine.distributed", "mmvitconv.engine.fsdp"],
)
OPTIM_WRAPPERS = Registry(
    "optimizer wrapper",
    parent=ENGINE_OPTIM_WRAPPERS,
    scope=SCOPE,
    locations=["mmvitconv.engine.amp"],
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    "optimizer wrapper constructor",
    parent=ENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope=SCOPE,
    locations=["mmvitconv.engine.layer_decay"],
)
PARAM_SCHEDULERS = Registry(
    "parameter scheduler",
    parent=ENGINE_PARAM_SCHEDULERS,
    scope=SCOPE,
    locations=["mmvitconv.engine.schedules"],
)
DATA_SAMPLERS = Registry(
    "data sampler",
    parent=ENGINE_DATA_SAMPLERS,
    scope=SCOPE,
    locations=["mmvitconv.datasets.multiscale"],
)
STRATEGIES = Registry(
    "strategy", parent=ENGINE_STRATEGIES, scope=SCOPE, locations=["mmvitconv.engine.fsdp"]
)
TRANSFORMS = Registry(
    "transform",
    parent=ENGINE_TRANSFORMS,
    scope=SCOPE,
    locations=["mmvitconv.datasets.loading", "mmvitconv.datasets.multiscale"],
)
