# Fully sharded data parallel training by MMEngine's FlexibleRunner: docs/distributed.md
runner_type = "FlexibleRunner"
strategy = dict(
    type="mmvitconv.FSDPStrategy",
    model_wrapper=dict(
        type="MMFullyShardedDataParallel",
        use_orig_params=True,
        # by size: the same for every backbone, neck and head
        auto_wrap_policy=dict(
            type="torch.distributed.fsdp.wrap.size_based_auto_wrap_policy",
            min_num_params=1_000_000,
        ),
    ),
    # one file in the usual layout, which tools/test.py and plain training read as well
    state_dict_cfg="full",
)
