_base_ = "../default_runtime.py"
default_scope = "mmpretrain"
default_hooks = dict(
    checkpoint=dict(save_best="accuracy/top1"),
    visualization=dict(type="VisualizationHook", enable=False),
)
env_cfg = dict(cudnn_benchmark=True)  # crops of one size
visualizer = dict(
    type="UniversalVisualizer", vis_backends={{_base_.vis_backends}}, name="visualizer"
)
log_processor = dict(type="LogProcessor", window_size=50, by_epoch=True)
