# DeepSpeed ZeRO stage 2 by MMEngine's FlexibleRunner: docs/distributed.md
runner_type = "FlexibleRunner"
strategy = dict(
    type="DeepSpeedStrategy",
    bf16=dict(enabled=True),
    zero_optimization=dict(
        stage=2,
        allgather_partitions=True,
        reduce_scatter=True,
        overlap_comm=True,
        contiguous_gradients=True,
    ),
)
