"""The 13 mixers of the dynamic-convolution specification, written down literally.

It shares no code with mmvitconv. Every mixer is a function of a state dict (the keys of
``DynamicConvMixer``) and a map x (B, C, H, W), in the precision of both. Attention is an explicit
map over all pairs of positions, also for windows and neighbourhoods, which are only masks here;
convolutions are loops over taps.
"""

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]
SOFTMAX = "softmax"


# Rows of weights -------------------------------------------------------------------------------


def layer_norm_rows(s: Tensor, valid: Tensor, eps: float = 1e-5) -> Tensor:
    """docs/specs/dynconv.md#4-norm-and-relu: zero mean and unit variance over the valid keys of
    each row; 0 elsewhere."""
    n = valid.sum(dim=-1, keepdim=True).clamp(min=1)
    mean = torch.where(valid, s, 0).sum(dim=-1, keepdim=True) / n
    centred = torch.where(valid, s - mean, 0)
    return centred / ((centred**2).sum(dim=-1, keepdim=True) / n + eps).sqrt()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda s: s.clamp(min=0),
    "relu2": lambda s: s.clamp(min=0) ** 2,
    "gelu": lambda s: s * (1 + torch.erf(s / 2**0.5)) / 2,
    "softplus": lambda s: F.softplus(s),
    "identity": lambda s: s,
}


def row_weights(
    s: Tensor,
    valid: Tensor,
    act: str,
    norm: bool = False,
    norm_pos: str = "pre",
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    count_power: float | str | None = 1,
) -> Tensor:
    """Weights of a map of scores.

    Args:
        s: Scores (B, h, P, R).
        valid: Pairs that may see each other, broadcastable to ``s``.
        act: Softmax, sigmoid or a key of ``ACTIVATIONS``.
        norm: LayerNorm over the keys, before (``norm_pos='pre'``) or after the activation.
        norm_pos: See ``norm``.
        gamma: Scale of each head (h,), or of each head and key (h, R).
        beta: Shift, shaped as ``gamma``.
        count_power: c(n) = n^-power (sqrt(2 pi) n^-power for norm before ReLU), or 'l1'.
    """
    valid = valid.expand_as(s)
    n = valid.sum(dim=-1, keepdim=True).clamp(min=1).to(s.dtype)
    if act == SOFTMAX:
        top = torch.where(valid, s, -math.inf).amax(dim=-1, keepdim=True)
        top = torch.where(top.isinf(), torch.zeros_like(top), top)
        powers = torch.where(valid, (torch.where(valid, s, top) - top).exp(), 0)
        return powers / powers.sum(dim=-1, keepdim=True).clamp(min=1e-30)
    if act == "sigmoid":
        return torch.where(valid, torch.sigmoid(s - n.log()), 0)

    def normed(rows: Tensor) -> Tensor:
        scale, shift = (p.reshape(len(p), 1, -1) for p in (gamma, beta))
        return scale * layer_norm_rows(rows, valid) + shift

    if norm and norm_pos == "pre":
        s = normed(s)
    a = torch.where(valid, ACTIVATIONS[act](s), 0)
    if norm and norm_pos == "post":
        a = torch.where(valid, normed(a), 0)
    if count_power == "l1":
        return a / (a.sum(dim=-1, keepdim=True) + 1e-6)
    c = n**-count_power
    if norm and norm_pos == "pre" and act == "relu":
        c = (2 * math.pi) ** 0.5 * c
    return c * a


# Pairwise mixers -------------------------------------------------------------------------------


def tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) as (B, H W, C)."""
    return x.flatten(2).transpose(1, 2)


def linear(state: State, name: str, t: Tensor) -> Tensor:
    y = t @ state[f"{name}.weight"].reshape(-1, t.shape[-1]).T
    bias = state.get(f"{name}.bias")
    return y if bias is None else y + bias


def queries_keys_values(state: State, t: Tensor, heads: int) -> list[Tensor]:
    """Tokens (B, N, C) as three tensors (B, h, N, d)."""
    parts = linear(state, "qkv", t).chunk(3, dim=-1)
    return [part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts]


def merged(state: State, y: Tensor) -> Tensor:
    """Heads (B, h, N, d) through the projection, (B, N, C)."""
    return linear(state, "proj", y.transpose(1, 2).flatten(2))


def with_prefix(x: Tensor, prefix: Tensor | None) -> Tensor:
    """Tokens of the map, the prefix (B, P, C) before them."""
    return tokens(x) if prefix is None else torch.cat([prefix, tokens(x)], dim=1)


def like_input(out: Tensor, x: Tensor, prefix: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
    """Tokens as the map alone, or as (map, prefix) where there is a prefix."""
    extra = 0 if prefix is None else prefix.shape[1]
    image = out[:, extra:].transpose(1, 2).unflatten(2, x.shape[2:])
    return image if prefix is None else (image, out[:, :extra])


def valid_keys(x: Tensor, mask: Tensor | None, prefix: Tensor | None = None) -> Tensor:
    """(B, P + N) of bool; ``mask`` (B, H, W) is True at padding."""
    extra = 0 if prefix is None else prefix.shape[1]
    batch, _, height, width = x.shape
    if mask is None:
        mask = torch.zeros(batch, height, width, dtype=torch.bool, device=x.device)
    return torch.cat([mask.new_ones(batch, extra), ~mask.flatten(1)], dim=1)


def global_pairwise(
    state: State,
    x: Tensor,
    heads: int,
    mask: Tensor | None = None,
    prefix: Tensor | None = None,
    out_norm: str | None = None,
    eps: float = 1e-6,
    **rule: object,
) -> Tensor | tuple[Tensor, Tensor]:
    """Everybody sees everybody, the prefix tokens included."""
    q, k, v = queries_keys_values(state, with_prefix(x, prefix), heads)
    s = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    valid = valid_keys(x, mask, prefix)[:, None, None, :]
    a = row_weights(s, valid, gamma=state.get("gamma"), beta=state.get("beta"), **rule)
    y = a @ v
    if out_norm == "ln":
        y = y - y.mean(dim=-1, keepdim=True)
    if out_norm is not None:
        y = y / ((y**2).mean(dim=-1, keepdim=True) + eps).sqrt()
    return like_input(merged(state, y), x, prefix)


def places(length: int, size: int, shift: int, filler: str) -> Tensor:
    """Where each position of an axis lies once it is filled to whole windows and turned.

    'invalid' filling is turned with the rest; 'zero' filling is appended to the turned axis, as
    timm does it, so that only the ``length`` positions are turned.
    """
    total = -(-length // size) * size
    turned = total if filler == "invalid" else length
    place = torch.arange(total)
    place[:turned] = (place[:turned] - shift) % turned
    return place


def same_window(place: Tensor, size: int, shift: int) -> Tensor:
    """Pairs of an axis that see each other: one window, and one side of the joined borders."""
    window, region = place // size, place >= len(place) - shift
    return (window[:, None] == window[None, :]) & (region[:, None] == region[None, :])


def all_pairs(rows: Tensor, columns: Tensor) -> Tensor:
    """(N, N) of both axes' pairs, in row-major order of positions."""
    n = len(rows) * len(columns)
    return (rows[:, None, :, None] & columns[None, :, None, :]).reshape(n, n)


def window_pairs(height: int, width: int, size: int, shift: int) -> Tensor:
    """(N, N) of bool for a map of whole windows."""
    axes = (places(length, size, shift, "invalid") for length in (height, width))
    return all_pairs(*(same_window(place, size, shift) for place in axes))


def relative_bias(table: Tensor, rows: Tensor, columns: Tensor, size: int) -> Tensor:
    """(h, N, N) of a table ((2M-1)^2, h); pairs that are M or more apart get a number unused."""
    row, column = rows.repeat_interleave(len(columns)), columns.repeat(len(rows))
    down = (row[:, None] - row[None, :] + size - 1).clamp(0, 2 * size - 2)
    right = (column[:, None] - column[None, :] + size - 1).clamp(0, 2 * size - 2)
    return table[down * (2 * size - 1) + right].permute(2, 0, 1)


def window_pairwise(
    state: State,
    x: Tensor,
    heads: int,
    size: int = 7,
    shift: int | tuple[int, int] = 0,
    mask: Tensor | None = None,
    filler: str = "invalid",
    **rule: object,
) -> Tensor:
    """Attention inside windows, as one map over all positions with everything else masked.

    ``shift`` is for axes longer than a window; a pair is for H and W whatever they are. ``filler``
    says what fills the map up to whole windows, right and bottom: positions that are 'invalid' as
    keys, or 'zero' tokens that take part.
    """
    height, width = x.shape[2:]
    if isinstance(shift, int):
        shift = tuple(shift if length > size else 0 for length in (height, width))
    filling = (0, -width % size, 0, -height % size)
    if mask is None:
        mask = torch.zeros(len(x), height, width, dtype=torch.bool, device=x.device)
    mask = F.pad(mask, filling, value=filler == "invalid")
    padded = F.pad(x, filling)
    shape = padded.shape[2:]
    axes = [places(*pair, filler) for pair in ((height, size, shift[0]), (width, size, shift[1]))]
    q, k, v = queries_keys_values(state, tokens(padded), heads)
    s = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    table = state.get("relative_position_bias_table")
    if table is not None:
        s = s + relative_bias(table, *axes, size)
    pairs = [same_window(place, size, by) for place, by in zip(axes, shift, strict=True)]
    valid = all_pairs(*pairs) & ~mask.flatten(1)[:, None, :]
    a = row_weights(s, valid[:, None], gamma=state.get("gamma"), beta=state.get("beta"), **rule)
    out = merged(state, a @ v).transpose(1, 2).unflatten(2, shape)
    return out[:, :, :height, :width]


def deit(state: State, x: Tensor, heads: int, **options: object) -> Tensor:
    return global_pairwise(state, x, heads, act=SOFTMAX, **options)


def deit_as_convolutions(state: State, x: Tensor, heads: int) -> Tensor:
    """docs/specs/dynconv.md#1-interpretation: two grouped 1x1 convolutions with generated kernels
    and softmax between."""
    images = []
    for image in x:
        q, k, v = F.conv2d(image[None], state["qkv.weight"][:, :, None, None], state["qkv.bias"])[
            0
        ].chunk(3)
        channels, count = len(q), q[0].numel()
        d = channels // heads
        # rows (g, j): k_g(j) / sqrt(d)
        first = k.reshape(heads, d, count).transpose(1, 2).reshape(heads * count, d, 1, 1)
        hidden = F.conv2d(q[None], first / d**0.5, groups=heads)
        hidden = hidden.unflatten(1, (heads, count)).softmax(dim=2).flatten(1, 2)
        # rows (g, c): v_{g,c}(.)
        second = v.reshape(channels, count, 1, 1)
        y = F.conv2d(hidden, second, groups=heads)
        images.append(F.conv2d(y, state["proj.weight"][:, :, None, None], state["proj.bias"]))
    return torch.cat(images)


def swin(state: State, x: Tensor, heads: int, filler: str = "zero", **options: object) -> Tensor:
    return window_pairwise(state, x, heads, filler=filler, act=SOFTMAX, **options)


def pairwise_mixer(rule: Mapping[str, object]) -> Callable[..., Tensor]:
    def mixer(
        state: State, x: Tensor, heads: int, reach: str = "global", **options: object
    ) -> Tensor:
        if reach == "window":
            return window_pairwise(state, x, heads, **rule, **options)
        return global_pairwise(state, x, heads, **rule, **options)

    return mixer


RULES: dict[str, dict[str, object]] = {
    "deit": {"act": SOFTMAX},
    "relu_n": {"act": "relu"},
    "ln_relu": {"act": "relu", "norm": True},
    "relu_ln": {"act": "relu", "norm": True, "norm_pos": "post"},
    "rela": {"act": "relu", "count_power": 0, "out_norm": "rms"},
}


def sima(
    state: State,
    x: Tensor,
    heads: int,
    mask: Tensor | None = None,
    prefix: Tensor | None = None,
    order: str = "map",
) -> Tensor | tuple[Tensor, Tensor]:
    """docs/specs/dynconv.md#2-table: q and k of L1 norm 1 over the tokens, per channel; either
    order of products."""
    q, k, v = queries_keys_values(state, with_prefix(x, prefix), heads)
    valid = valid_keys(x, mask, prefix)[:, None, :, None]
    q, k, v = (torch.where(valid, part, 0) for part in (q, k, v))
    q, k = (part / part.abs().sum(dim=2, keepdim=True).clamp(min=1e-12) for part in (q, k))
    y = (q @ k.transpose(2, 3)) @ v if order == "map" else q @ (k.transpose(2, 3) @ v)
    return like_input(merged(state, y), x, prefix)


def natt(
    state: State,
    x: Tensor,
    heads: int,
    size: int = 7,
    mask: Tensor | None = None,
    act: str = SOFTMAX,
    **rule: object,
) -> Tensor:
    """Attention in the k x k neighbourhood; keys beyond the border do not exist."""
    batch, channels, height, width = x.shape
    d = channels // heads
    q, k, v = linear(state, "qkv", tokens(x)).transpose(1, 2).unflatten(2, x.shape[2:]).chunk(3, 1)
    valid = valid_keys(x, mask).reshape(batch, 1, height, width).to(x.dtype)
    k, v, valid = (
        F.unfold(part, size, padding=size // 2).reshape(batch, -1, size**2, height * width)
        for part in (k, v, valid)
    )
    q = q.reshape(batch, heads, d, 1, height * width)
    k, v = (part.unflatten(1, (heads, d)) for part in (k, v))
    s = (q * k).sum(dim=2).transpose(2, 3) / d**0.5  # (B, h, N, taps)
    if "static_kernel" in state:
        s = s + state["static_kernel"].flatten(1)[:, None]
    affine = {"gamma": state.get("gamma"), "beta": state.get("beta")}
    a = row_weights(s, valid.transpose(2, 3) > 0, act, **affine, **rule).transpose(2, 3)
    y = (a[:, :, None] * v).sum(dim=3).transpose(2, 3)  # (B, h, N, d)
    return merged(state, y).transpose(1, 2).unflatten(2, x.shape[2:])


def natt_as_map(state: State, x: Tensor, heads: int, size: int = 7) -> Tensor:
    """The same with softmax, as a masked map over all pairs."""
    axes = (torch.arange(length) for length in x.shape[2:])
    near = [(axis[:, None] - axis[None, :]).abs() <= size // 2 for axis in axes]
    q, k, v = queries_keys_values(state, tokens(x), heads)
    a = row_weights(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5, all_pairs(*near), act=SOFTMAX)
    return merged(state, a @ v).transpose(1, 2).unflatten(2, x.shape[2:])


def dwhead(
    state: State,
    x: Tensor,
    heads: int = 0,
    mask: Tensor | None = None,
    prefix: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The h=C limit with its map of C N^2 numbers: heads of one channel; ``heads`` is not used."""
    q, k, v = linear(state, "qkv", with_prefix(x, prefix)).transpose(1, 2).chunk(3, dim=1)
    valid = valid_keys(x, mask, prefix)[:, None, None, :]
    a = (q[:, :, :, None] * k[:, :, None, :]).clamp(min=0) * valid
    y = (a * v[:, :, None, :]).sum(dim=3) / valid.sum(dim=3).clamp(min=1)
    return like_input(linear(state, "proj", y.transpose(1, 2)), x, prefix)


# Local kernels ---------------------------------------------------------------------------------


def shifted(x: Tensor, down: int, right: int) -> Tensor:
    """x(p + (down, right)), zero outside the map."""
    height, width = x.shape[2:]
    reach = max(abs(down), abs(right))
    wide = F.pad(x, (reach,) * 4)
    return wide[:, :, reach + down : reach + down + height, reach + right : reach + right + width]


def depthwise(x: Tensor, kernel: Tensor) -> Tensor:
    """Sum over taps of x(p + r) K(r); K (B or 1, C, k, k) or, per position, (B, C, k, k, H, W)."""
    size = kernel.shape[2]
    y = torch.zeros_like(x)
    for i in range(size):
        for j in range(size):
            tap = kernel[:, :, i, j]
            tap = tap if tap.dim() == 4 else tap[:, :, None, None]
            y = y + shifted(x, i - size // 2, j - size // 2) * tap
    return y


def pooled_layout(x: Tensor, size: int) -> Tensor:
    """Means of k x k cells; cell i begins at floor(i H / k) and ends before ceil((i+1) H / k)."""
    height, width = x.shape[2:]

    def cell(i: int, length: int) -> slice:
        return slice(i * length // size, -((-(i + 1) * length) // size))

    rows = [
        torch.stack(
            [x[:, :, cell(i, height), cell(j, width)].mean(dim=(2, 3)) for j in range(size)], -1
        )
        for i in range(size)
    ]
    return torch.stack(rows, dim=2)


def pointwise(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """A 1x1 convolution as a matrix product over the channels."""
    y = torch.einsum("oc,bchw->bohw", weight.flatten(1), x)
    return y if bias is None else y + bias[:, None, None]


def dwvit(state: State, x: Tensor, heads: int = 0, size: int = 7) -> Tensor:
    """docs/specs/dynconv.md#5-depth-wise-vit; ``heads`` is not used."""
    weights = state["qkv.weight"].chunk(3)
    biases = state["qkv.bias"].chunk(3) if "qkv.bias" in state else (None,) * 3
    pooled = pooled_layout(x, size)
    q = pointwise(weights[0], biases[0], x)
    key = pointwise(weights[1], biases[1], pooled) / size + state["static_key"]
    value = pointwise(weights[2], biases[2], pooled) + state["static_value"]
    u = depthwise(q, key)
    centred = u - u.mean(dim=1, keepdim=True)
    z = centred / ((centred**2).mean(dim=1, keepdim=True) + 1e-6).sqrt()
    z = z * state["norm.weight"][:, None, None] + state["norm.bias"][:, None, None]
    y = (2 * math.pi) ** 0.5 / size**2 * depthwise(z.clamp(min=0), value)
    return pointwise(state["proj.weight"], state["proj.bias"], y)


def batch_norm(state: State, name: str, x: Tensor, training: bool, eps: float = 1e-5) -> Tensor:
    if training:
        mean = x.mean(dim=(0, 2, 3))
        var = ((x - mean[:, None, None]) ** 2).mean(dim=(0, 2, 3))
    else:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    z = (x - mean[:, None, None]) / (var[:, None, None] + eps).sqrt()
    return z * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def generated(state: State, t: Tensor, training: bool) -> Tensor:
    """R2 relu(BN(R1 t))."""
    hidden = pointwise(state["gen.0.weight"], state.get("gen.0.bias"), t)
    hidden = batch_norm(state, "gen.1", hidden, training).clamp(min=0)
    return pointwise(state["gen.3.weight"], state["gen.3.bias"], hidden)


def static_kernel(state: State, t: Tensor, size: int, training: bool) -> Tensor:
    return (
        depthwise(t, state["dwconv.weight"].transpose(0, 1)) + state["dwconv.bias"][:, None, None]
    )


def sample_kernel(state: State, t: Tensor, size: int, training: bool) -> Tensor:
    kernel = generated(state, t.mean(dim=(2, 3), keepdim=True), training)
    kernel = kernel.reshape(len(t), t.shape[1], size, size)
    return depthwise(t, kernel) + state["out_bias"][:, None, None]


def position_kernel(state: State, t: Tensor, size: int, training: bool) -> Tensor:
    kernel = generated(state, t, training)  # (B, G k^2, H, W)
    groups = kernel.shape[1] // size**2
    kernel = kernel.unflatten(1, (groups, size, size))
    return depthwise(t, kernel.repeat_interleave(t.shape[1] // groups, dim=1))


def dwnet_mixer(middle: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """BN(W2 relu(BN(DW(relu(BN(W1 x)))))) of docs/specs/dynconv.md#6-mixer, without ``heads``."""

    def mixer(
        state: State, x: Tensor, heads: int = 0, size: int = 7, training: bool = False
    ) -> Tensor:
        t = batch_norm(state, "bn1", pointwise(state["conv1.weight"], None, x), training)
        t = middle(state, t.clamp(min=0), size, training)
        t = batch_norm(state, "bn2", t, training).clamp(min=0)
        return batch_norm(state, "bn3", pointwise(state["conv2.weight"], None, t), training)

    return mixer


ORACLES: dict[str, Callable[..., Tensor]] = {
    "deit": deit,
    "swin": swin,
    "relu_n": pairwise_mixer(RULES["relu_n"]),
    "ln_relu": pairwise_mixer(RULES["ln_relu"]),
    "relu_ln": pairwise_mixer(RULES["relu_ln"]),
    "rela": pairwise_mixer(RULES["rela"]),
    "sima": sima,
    "natt": natt,
    "dwvit": dwvit,
    "dwhead": dwhead,
    "ddw": dwnet_mixer(sample_kernel),
    "iddw": dwnet_mixer(position_kernel),
    "dw": dwnet_mixer(static_kernel),
}


def cropped(
    preset: str, state: State, x: Tensor, heads: int, extents: list[tuple[int, int]], **options
) -> list[Tensor]:
    """Each sample alone, cut to its (height, width): what a padded batch must give there."""
    return [
        ORACLES[preset](state, image[None, :, :height, :width], heads, **options)[0]
        for image, (height, width) in zip(x, extents, strict=True)
    ]
