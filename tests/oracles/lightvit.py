"""LightViT written down literally from the specification: no fast path, the ORIGINAL keys.

It shares no code with mmvitconv. It is the oracle of the tests (values, gradients, key layout) and
of the speed benchmark. One sequence holds the T global tokens first, then the image tokens row by
row. The two released code bases are one class: ``dense=False`` is the classification code,
``dense=True`` the detection code. At sizes where the classification code raised, it pads as the
detection code does. Parameters start as in the detection code, so global tokens are zero.
Numbers such as 4.1 are those of docs/specs/lightvit.md.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# dims, depths, heads, number of global tokens of the classification code
VARIANTS = {
    "tiny": ([64, 128, 256], [2, 6, 6], [2, 4, 8], 8),
    "small": ([96, 192, 384], [2, 6, 6], [3, 6, 12], 16),
    "base": ([128, 256, 512], [3, 8, 6], [4, 8, 16], 24),
}
WINDOW = 7


class PatchEmbed(nn.Module):
    """docs/specs/lightvit.md#21-stem: (B,3,H,W) to tokens (B,N,C0) and their grid."""

    def __init__(self, in_channels: int, c: int):
        super().__init__()
        s = c // 2
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, s, 3, 2, 1, bias=False),
            nn.BatchNorm2d(s),
            nn.GELU(),
            nn.Conv2d(s, s, 3, 1, 1, groups=s, bias=False),
            nn.BatchNorm2d(s),
            nn.GELU(),
            nn.Conv2d(s, s, 3, 1, 1, groups=s, bias=False),
            nn.BatchNorm2d(s),
            nn.GELU(),
            nn.Conv2d(s, s, 3, 2, 1, groups=s, bias=False),
            nn.BatchNorm2d(s),
            nn.GELU(),
        )
        self.proj = nn.Conv2d(s, c, 3, 2, 1)
        self.norm = nn.LayerNorm(c)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        x = self.proj(self.stem(x))
        return self.norm(x.flatten(2).transpose(1, 2)), x.shape[2], x.shape[3]


class Attention(nn.Module):
    """docs/specs/lightvit.md#24-attention with the padding of 4.1. T is what the rows have beyond
    height * width."""

    def __init__(self, c: int, heads: int):
        super().__init__()
        self.heads, self.scale = heads, (c // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        slot = torch.arange(WINDOW * WINDOW)
        row, col = slot // WINDOW, slot % WINDOW
        index = (row[:, None] - row[None, :] + WINDOW - 1) * (2 * WINDOW - 1)
        index = index + (col[:, None] - col[None, :] + WINDOW - 1)
        self.register_buffer("relative_position_index", index.flatten())
        self.qkv = nn.Linear(c, 3 * c)
        self.kv_global = nn.Linear(c, 2 * c)
        self.proj = nn.Linear(c, c)

    def split_heads(self, x: Tensor) -> Tensor:
        """(B,R,C) to (B,h,R,d)."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
        scores = torch.einsum("...qd,...kd->...qk", q, k) * self.scale + bias
        return torch.einsum("...qk,...kd->...qd", scores.softmax(dim=-1), v)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        b, rows, c = x.shape
        t = rows - height * width
        down, right = -height % WINDOW, -width % WINDOW
        padded_h, padded_w = height + down, width + right
        grid = x[:, t:].reshape(b, height, width, c)
        grid = F.pad(grid, (0, 0, 0, right, 0, down))
        sequence = torch.cat([x[:, :t], grid.reshape(b, -1, c)], dim=1)
        q, k, v = (self.split_heads(part) for part in self.qkv(sequence).chunk(3, dim=2))

        def to_windows(z: Tensor) -> Tensor:
            """(B,h,T+N,d) to (B, window rows, window columns, h, 49, d)."""
            z = z[:, :, t:].unflatten(2, (padded_h // WINDOW, WINDOW, padded_w // WINDOW, WINDOW))
            return z.permute(0, 2, 4, 1, 3, 5, 6).flatten(4, 5)

        def to_grid(z: Tensor) -> Tensor:
            """The inverse, cropped to the real grid: (B,h,H*W,d)."""
            z = z.unflatten(4, (WINDOW, WINDOW)).permute(0, 3, 1, 4, 2, 5, 6)
            z = z.reshape(b, self.heads, padded_h, padded_w, -1)
            return z[:, :, :height, :width].flatten(2, 3)

        def real(z: Tensor) -> Tensor:
            """The real image tokens alone: (B,h,H*W,d)."""
            z = z[:, :, t:].unflatten(2, (padded_h, padded_w))
            return z[:, :, :height, :width].flatten(2, 3)

        area = WINDOW * WINDOW
        bias = self.relative_position_bias_table[self.relative_position_index]
        bias = bias.reshape(area, area, self.heads).permute(2, 0, 1)
        local = to_grid(self.attend(to_windows(q), to_windows(k), to_windows(v), bias))

        gathered = self.attend(q[:, :, :t], real(k), real(v))
        gathered = gathered.transpose(1, 2).reshape(b, t, c)

        key, value = (self.split_heads(part) for part in self.kv_global(gathered).chunk(2, dim=2))
        broadcast = self.attend(real(q), key, value)

        image = (local + broadcast).transpose(1, 2).reshape(b, height * width, c)
        return self.proj(torch.cat([gathered, image], dim=1))


class BiAttention(nn.Module):
    """The gates of docs/specs/lightvit.md#25-feed-forward-network, of the un-normed input."""

    def __init__(self, c: int):
        super().__init__()
        r = int(c * 0.25)
        self.norm = nn.LayerNorm(c)
        self.global_reduce = nn.Linear(c, r)
        self.local_reduce = nn.Linear(c, r)
        self.channel_select = nn.Linear(r, c)
        self.spatial_select = nn.Linear(2 * r, 1)

    def forward(self, u: Tensor) -> Tensor:
        z = self.norm(u)
        m = z.mean(dim=1, keepdim=True)
        g = F.gelu(self.global_reduce(m))
        local = F.gelu(self.local_reduce(z))
        channel = self.channel_select(g).sigmoid()
        both = torch.cat([local, g.expand(-1, u.shape[1], -1)], dim=2)
        return u * channel * self.spatial_select(both).sigmoid()


class BiAttentionMLP(nn.Module):
    """docs/specs/lightvit.md#25-feed-forward-network."""

    def __init__(self, c: int, mlp_ratio: float):
        super().__init__()
        self.fc1 = nn.Linear(c, int(c * mlp_ratio))
        self.fc2 = nn.Linear(int(c * mlp_ratio), c)
        self.attn = BiAttention(c)

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(self.fc2(F.gelu(self.fc1(x))))


class Block(nn.Module):
    """docs/specs/lightvit.md#23-block, #27-stochastic-depth; ``drop_globals`` is rule 4.3."""

    def __init__(
        self,
        c: int,
        heads: int,
        mlp_ratio: float,
        drop_path: float = 0.0,
        drop_globals: bool = False,
    ):
        super().__init__()
        self.drop_path_rate, self.drop_globals = drop_path, drop_globals
        self.norm1 = nn.LayerNorm(c, eps=1e-6)
        self.attn = Attention(c, heads)
        self.norm2 = nn.LayerNorm(c, eps=1e-6)
        self.mlp = BiAttentionMLP(c, mlp_ratio)

    def drop_path(self, x: Tensor) -> Tensor:
        if self.drop_path_rate == 0 or not self.training:
            return x
        keep = 1 - self.drop_path_rate
        return x * (x.new_empty(x.shape[0], 1, 1).bernoulli_(keep) / keep)

    def forward(self, x: Tensor, height: int, width: int) -> tuple[Tensor, int, int]:
        x = x + self.drop_path(self.attn(self.norm1(x), height, width))
        if self.drop_globals:
            x = x[:, x.shape[1] - height * width :]
        return x + self.drop_path(self.mlp(self.norm2(x))), height, width


class Merge(nn.Module):
    """docs/specs/lightvit.md#26-residual-merge with the padding of 4.2."""

    def __init__(self, c: int, c_out: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * c)
        self.reduction = nn.Linear(4 * c, c_out, bias=False)
        self.norm2 = nn.LayerNorm(c)
        self.proj = nn.Linear(c, c_out, bias=False)
        self.res_proj = nn.Linear(c, c_out, bias=False)

    def forward(self, x: Tensor, height: int, width: int) -> tuple[Tensor, int, int]:
        b, rows, c = x.shape
        t = rows - height * width
        grid = x[:, t:].reshape(b, height, width, c)
        grid = F.pad(grid, (0, 0, 0, width % 2, 0, height % 2))
        offsets = ((0, 0), (1, 0), (0, 1), (1, 1))
        slices = [grid[:, row::2, col::2] for row, col in offsets]
        image = self.reduction(self.norm(torch.cat(slices, dim=3)))
        image = image + self.res_proj(torch.stack(slices).amax(dim=0))
        tokens = self.proj(self.norm2(x[:, :t]))
        x = torch.cat([tokens, image.flatten(1, 2)], dim=1)
        return x, image.shape[1], image.shape[2]


class OracleLightViT(nn.Module):
    """``dense``: three normed NCHW features. Else logits, or (B,1280) without ``num_classes``."""

    def __init__(
        self,
        dims: list[int],
        depths: list[int],
        heads: list[int],
        num_tokens: int,
        dense: bool,
        num_classes: int | None = None,
        in_channels: int = 3,
        mlp_ratios: tuple[float, ...] = (8, 4, 4),
        drop_path_rate: float = 0.0,
    ):
        super().__init__()
        self.dense = dense
        self.global_token = nn.Parameter(torch.zeros(1, num_tokens, dims[0]))
        self.patch_embed = PatchEmbed(in_channels, dims[0])
        total = sum(depths)
        self.stages = nn.ModuleList()
        done = 0
        for s, (c, depth) in enumerate(zip(dims, depths, strict=True)):
            stage = nn.ModuleList([Merge(dims[s - 1], c)] if s > 0 else [])
            for _ in range(depth):
                rate = done * drop_path_rate / max(total - 1, 1)
                done += 1
                stage.append(Block(c, heads[s], mlp_ratios[s], rate, dense and done == total))
            self.stages.append(stage)
        if dense:
            for s, c in enumerate(dims):
                self.add_module(f"norm{s}", nn.LayerNorm(c, eps=1e-6))
        else:
            self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
            self.neck = nn.Sequential(nn.Linear(dims[-1], 1280), nn.LayerNorm(1280), nn.GELU())
            self.head = nn.Identity() if num_classes is None else nn.Linear(1280, num_classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        x, height, width = self.patch_embed(x)
        x = torch.cat([self.global_token.expand(x.shape[0], -1, -1), x], dim=1)
        outs = []
        for s, stage in enumerate(self.stages):
            for layer in stage:
                x, height, width = layer(x, height, width)
            if self.dense:
                image = getattr(self, f"norm{s}")(x[:, x.shape[1] - height * width :])
                outs.append(image.transpose(1, 2).unflatten(2, (height, width)).contiguous())
        if self.dense:
            return tuple(outs)
        return self.head(self.neck(self.norm(x)).mean(dim=1))


class Conv(nn.Module):
    """Keys of a layer wrapped without norm and activation."""

    def __init__(self, conv: nn.Module):
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class OracleLightViTFPN(nn.Module):
    """docs/specs/lightvit.md#5-lightvitfpn; the initialisation is the layers' own."""

    def __init__(
        self,
        in_channels: list[int],
        out_channels: int = 256,
        num_outs: int = 5,
        num_extra_trans_convs: int = 1,
    ):
        super().__init__()
        c = out_channels
        self.num_outs = num_outs

        def convs(count: int) -> nn.ModuleList:
            return nn.ModuleList([Conv(nn.Conv2d(c, c, 3, padding=1)) for _ in range(count)])

        self.lateral_convs = nn.ModuleList([Conv(nn.Conv2d(c_in, c, 1)) for c_in in in_channels])
        self.fpn_convs = convs(len(in_channels))
        self.extra_trans_convs = nn.ModuleList(
            [Conv(nn.ConvTranspose2d(c, c, 2, 2)) for _ in range(num_extra_trans_convs)]
        )
        self.extra_fpn_convs = convs(num_extra_trans_convs)

    def forward(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        maps = [conv(f) for conv, f in zip(self.lateral_convs, features, strict=True)]
        for i in range(len(maps) - 1, 0, -1):
            size = maps[i - 1].shape[2:]
            maps[i - 1] = maps[i - 1] + F.interpolate(maps[i], size=size, mode="nearest")
        extra = []
        finest = maps[0]
        for conv in self.extra_trans_convs:
            finest = conv(finest)
            extra.insert(0, finest)
        outs = [conv(m) for conv, m in zip(self.extra_fpn_convs, extra, strict=True)]
        outs += [conv(m) for conv, m in zip(self.fpn_convs, maps, strict=True)]
        while len(outs) < self.num_outs:
            outs.append(outs[-1][:, :, ::2, ::2])
        return tuple(outs[: self.num_outs])


def variant(
    name: str, dense: bool, num_tokens: int | None = None, **kwargs: object
) -> OracleLightViT:
    """A released variant: tiny, small or base; the detection code's tiny has 512 tokens."""
    dims, depths, heads, tokens = VARIANTS[name]
    return OracleLightViT(dims, depths, heads, num_tokens or tokens, dense, **kwargs)
