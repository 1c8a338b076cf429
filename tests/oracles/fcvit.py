"""FCViT written down literally from the specification: no fast path, the ORIGINAL state-dict keys.

It shares no code with mmvitconv. It is the oracle of the tests (values, gradients, key layout) and
of the speed benchmark, so it uses torch's own layers where the formula is one (GroupNorm with one
group, convolutions) and spells out the rest, the 5-D product of the global context included.
"""

import torch
from torch import Tensor, nn

SHIPPED = {
    "global_context": {"weighted_gc": True, "gc_reduction": 8, "compete": True, "head": 8},
    "spatial_mixer": {
        "use_globalcontext": True,
        "useSecondTokenMix": True,
        "mix_size_1": 11,
        "mix_size_2": 11,
        "fc_factor": 8,
        "fc_min_value": 16,
        "useSpatialAtt": False,
    },
    "channel_mixer": {"useChannelAtt": False, "useDWconv": True, "DWconv_size": 3},
    "spatial_att": {"kernel_size": 3, "dim_reduction": 8},
    "channel_att": {"size_1": 3, "size_2": 5},
}
VARIANTS = {
    "tiny": ([3, 3, 5, 2], [32, 64, 160, 320]),
    "s12": ([2, 2, 6, 2], [64, 128, 320, 512]),
    "s24": ([4, 4, 12, 4], [64, 128, 320, 512]),
    "s48": ([8, 8, 24, 8], [64, 128, 320, 512]),
}


def depthwise(channels: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)


class PatchEmbed(nn.Module):
    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int):
        super().__init__()
        self.proj = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2)
        self.norm = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x))


class GlobalContext(nn.Module):
    def __init__(self, c: int, weighted_gc: bool, gc_reduction: int, compete: bool, head: int):
        super().__init__()
        self.compete, self.weighted, self.head = compete, weighted_gc, head
        if weighted_gc:
            self.rescale_weight = nn.Parameter(torch.ones(head))
            self.rescale_bias = nn.Parameter(torch.zeros(head))
        if compete:
            self.fc1 = nn.Linear(c, 2 * c // gc_reduction)
            self.fc2 = nn.Linear(c // gc_reduction, c)
        else:
            self.fc = nn.Sequential(
                nn.Linear(c, c // gc_reduction), nn.GELU(), nn.Linear(c // gc_reduction, c)
            )

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        g = x.mean(dim=(2, 3))
        if self.compete:
            first, second = self.fc1(g).chunk(2, dim=1)
            v = self.fc2(torch.maximum(first, second))
        else:
            v = self.fc(g)
        if not self.weighted:
            return v[:, :, None, None]
        d = c // self.head
        tokens = x.reshape(b, self.head, d, h * w)
        s = d**-0.5 * (tokens * g.reshape(b, self.head, d, 1)).sum(dim=2)
        mu = s.mean(dim=(1, 2), keepdim=True)
        sd = s.std(dim=(1, 2), keepdim=True)
        z = (s - mu) / (sd + 1e-5)
        weights = self.rescale_weight.view(1, -1, 1) * z + self.rescale_bias.view(1, -1, 1)
        product = weights.reshape(b, self.head, 1, h, w) * v.reshape(b, self.head, d, 1, 1)
        return product.reshape(b, c, h, w)


class SpatialAtt(nn.Module):
    def __init__(self, c: int, kernel_size: int, dim_reduction: int):
        super().__init__()
        self.spatial_att = nn.Sequential(
            depthwise(c, kernel_size),
            nn.Conv2d(c, c // dim_reduction, 1),
            nn.GELU(),
            nn.Conv2d(c // dim_reduction, c, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.spatial_att(x)


class TokenMixer(nn.Module):
    def __init__(self, c: int, params: dict):
        super().__init__()
        spatial = params["spatial_mixer"]
        self.gelu = nn.GELU()

        def bottleneck() -> nn.Module:
            if spatial["fc_factor"] <= 1:
                return nn.Conv2d(c, c, 1)
            r = max(c // spatial["fc_factor"], spatial["fc_min_value"])
            return nn.Sequential(nn.Conv2d(c, r, 1), nn.GELU(), nn.Conv2d(r, c, 1))

        self.use_gc = spatial["use_globalcontext"]
        self.second = spatial["useSecondTokenMix"]
        if self.use_gc:
            self.gc1 = GlobalContext(c, **params["global_context"])
        self.dw1 = depthwise(c, spatial["mix_size_1"])
        self.fc1 = bottleneck()
        if self.second:
            if self.use_gc:
                self.gc2 = GlobalContext(c, **params["global_context"])
            self.dw2 = depthwise(c, spatial["mix_size_2"])
            self.fc2 = bottleneck()
        self.spatial_att = (
            SpatialAtt(c, **params["spatial_att"]) if spatial["useSpatialAtt"] else None
        )

    def forward(self, t: Tensor) -> Tensor:
        if self.use_gc:
            t = t + self.gc1(t)
        t = self.gelu(self.fc1(self.dw1(t)))
        if self.second:
            if self.use_gc:
                t = t + self.gc2(t)
            t = self.gelu(self.fc2(self.dw2(t)))
        return t if self.spatial_att is None else self.spatial_att(t)


class ChannelAtt(nn.Module):
    def __init__(self, size_1: int, size_2: int):
        super().__init__()
        self.channelConv1 = nn.Conv1d(1, 1, size_1, padding=size_1 // 2)
        self.channelConv2 = nn.Conv1d(1, 1, size_2, padding=size_2 // 2)
        self.gelu = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        q = self.gelu(x).mean(dim=(2, 3))[:, None]
        q = self.channelConv2(self.gelu(self.channelConv1(q)))
        return x + q[:, 0, :, None, None]


class ChannelMixer(nn.Module):
    def __init__(self, c: int, hidden: int, params: dict):
        super().__init__()
        mixer = params["channel_mixer"]
        self.fc1 = nn.Conv2d(c, hidden, 1)
        self.dwconv = depthwise(hidden, mixer["DWconv_size"]) if mixer["useDWconv"] else None
        self.gelu = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, c, 1)
        self.channel_att = ChannelAtt(**params["channel_att"]) if mixer["useChannelAtt"] else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        if self.dwconv is not None:
            x = self.dwconv(x)
        x = self.fc2(self.gelu(x))
        return x if self.channel_att is None else self.channel_att(x)


class Block(nn.Module):
    def __init__(self, c: int, mlp_ratio: float, params: dict, use_layer_scale: bool):
        super().__init__()
        if use_layer_scale:
            self.layer_scale_1 = nn.Parameter(1e-5 * torch.ones(c))
            self.layer_scale_2 = nn.Parameter(1e-5 * torch.ones(c))
        self.use_layer_scale = use_layer_scale
        self.norm1 = nn.GroupNorm(1, c)
        self.token_mixer = TokenMixer(c, params)
        self.norm2 = nn.GroupNorm(1, c)
        self.channel_mixer = ChannelMixer(c, int(c * mlp_ratio), params)

    def forward(self, x: Tensor) -> Tensor:
        if not self.use_layer_scale:
            x = x + self.token_mixer(self.norm1(x))
            return x + self.channel_mixer(self.norm2(x))
        x = x + self.layer_scale_1[:, None, None] * self.token_mixer(self.norm1(x))
        return x + self.layer_scale_2[:, None, None] * self.channel_mixer(self.norm2(x))


class OracleFCViT(nn.Module):
    """Logits with ``num_classes``, else the four normalised features."""

    def __init__(
        self,
        layers: list[int],
        embed_dims: list[int],
        mlp_ratios: list[float] = (8, 8, 4, 4),
        num_classes: int | None = None,
        params: dict | None = None,
        use_layer_scale: bool = True,
        **_unused: object,
    ):
        super().__init__()
        params = params or SHIPPED
        self.patch_embed = PatchEmbed(3, embed_dims[0], 7, 4)
        self.network = nn.ModuleList()
        for s, (depth, c, ratio) in enumerate(zip(layers, embed_dims, mlp_ratios, strict=True)):
            self.network.append(
                nn.Sequential(*[Block(c, ratio, params, use_layer_scale) for _ in range(depth)])
            )
            if s < 3:
                self.network.append(PatchEmbed(c, embed_dims[s + 1], 3, 2))
        self.num_classes = num_classes
        if num_classes is None:
            for s, c in enumerate(embed_dims):
                self.add_module(f"norm{2 * s}", nn.GroupNorm(1, c))
        else:
            self.norm = nn.GroupNorm(1, embed_dims[-1])
            self.head = nn.Linear(embed_dims[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        x = self.patch_embed(x)
        outs = []
        for i, layer in enumerate(self.network):
            x = layer(x)
            if self.num_classes is None and i % 2 == 0:
                outs.append(getattr(self, f"norm{i}")(x))
        if self.num_classes is None:
            return outs
        return self.head(self.norm(x).mean(dim=(2, 3)))


def variant(name: str, num_classes: int | None = None) -> OracleFCViT:
    """A released variant: tiny, s12, s24 or s48."""
    return OracleFCViT(*VARIANTS[name], num_classes=num_classes)
