"""Operators that cost no multiply-adds by the rule of :mod:`mmvitconv.zoo.costs`."""

__all__ = ["FREE_OPERATORS"]

# Names without the trailing underscore of the in-place form. Element-wise operators that torch tags
# as such, views and factories are recognised without being listed.
_GROUPS = {
    "reductions, softmax, cumulative sums, comparisons of whole tensors": """
        sum nansum mean amax amin aminmax max min argmax argmin all any prod var std
        var_mean std_mean norm linalg_vector_norm logsumexp count_nonzero median nanmedian
        mode cumsum cumprod cummax cummin logcumsumexp _softmax _safe_softmax _log_softmax
        equal allclose is_nonzero histc bincount _linalg_check_errors
    """,
    "element-wise, but not tagged so (older releases of torch tag fewer)": """
        hardswish hardsigmoid hardtanh hardshrink softshrink elu celu selu glu leaky_relu
        log_sigmoid_forward mish _prelu_kernel rrelu_with_noise softplus threshold complex
        polar floor_divide isin cross linalg_cross
    """,
    "norms": """
        native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit
        _native_batch_norm_legit_no_training _batch_norm_no_update _batch_norm_with_update
        _batch_norm_impl_index native_layer_norm native_group_norm _fused_rms_norm
        _weight_norm _weight_norm_interface batch_norm_elemt batch_norm_stats
        batch_norm_gather_stats_with_counts
    """,
    "pooling, interpolation, padding": """
        avg_pool1d avg_pool2d avg_pool3d max_pool2d_with_indices max_pool3d_with_indices
        _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d
        fractional_max_pool2d max_unpool2d upsample_nearest1d upsample_nearest2d
        upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
        upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d
        _upsample_bilinear2d_aa _upsample_bicubic2d_aa grid_sampler_2d grid_sampler_3d
        affine_grid_generator constant_pad_nd reflection_pad1d reflection_pad2d
        replication_pad1d replication_pad2d
    """,
    "tensors shaped like another one, random numbers": """
        linspace logspace empty_like zeros_like ones_like full_like new_empty new_zeros
        new_ones new_full new_empty_strided rand_like randn_like randint_like bernoulli
        normal uniform exponential random native_dropout multinomial
    """,
    "torchvision": """
        nms roi_align roi_pool ps_roi_align ps_roi_pool
    """,
    "copies, layout, indexing, sorting; in-place views (their signature does not say view)": """
        clone copy _to_copy contiguous cat stack _unsafe_view _reshape_copy repeat roll flip
        rot90 as_strided squeeze unsqueeze t transpose im2col col2im pixel_shuffle
        pixel_unshuffle channel_shuffle native_channel_shuffle tril triu diag_embed index
        _unsafe_index index_select index_put _unsafe_index_put _index_put_impl index_add
        index_copy index_fill gather scatter scatter_add scatter_reduce masked_select
        masked_scatter masked_fill take put embedding repeat_interleave nonzero sort topk
        kthvalue unique_dim _unique2 unique_consecutive bucketize searchsorted
        _local_scalar_dense item lift_fresh lift fill zero resize set _conj _assert_async
        _foreach_copy _pin_memory is_pinned split_with_sizes_copy
    """,
}
FREE_OPERATORS = frozenset(name for names in _GROUPS.values() for name in names.split())
