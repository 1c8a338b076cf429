"""Every name of the index: a file in its authors' layout becomes the model that the index says.

The files are made here, with random numbers. Those of all names are compared by names and shapes;
one of each family goes from a server through the cache into a classifier and has to give the
original's outputs.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import timm
import torch
from oracles import convmixer, fcvit, lightvit, parc
from torch import Tensor, nn
from weights import servers
from weights.test_parc import deeplab, ssd

from mmvitconv.models.backbones.convmixer import ARCHS as CONVMIXERS
from mmvitconv.resources import resource_root
from mmvitconv.weights import adapt_checkpoint, addresses, check_match
from mmvitconv.weights.index import Weights, read_index
from mmvitconv.zoo.loading import load_model

INDEX = read_index()
LOADABLE = [name for name, entry in INDEX.items() if entry.loads]
OTHER_PARTS = ("neck.", "rpn_head.", "roi_head.", "decode_head.")


def mixer(arch: str) -> nn.Module:
    sizes = CONVMIXERS[arch]
    act = "relu" if arch == "768_32" else "gelu"
    shape = (sizes.embed_dims, sizes.depth, sizes.kernel_size, sizes.patch_size)
    return convmixer.oracle(*shape, act, num_classes=1000)


class ParCNet(nn.Module):
    """Gives the logits alone."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.net = parc.parc_net(name)

    def state_dict(self) -> dict[str, Tensor]:
        return self.net.state_dict()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)["logits"]


CLASSIFIERS: dict[str, Callable[[str], nn.Module]] = {
    "FCViT": lambda arch: fcvit.variant(arch, num_classes=1000),
    "LightViT": lambda arch: lightvit.variant(arch, False, num_classes=1000),
    "ConvMixer": mixer,
    "ParCNet": ParCNet,
    "DynConvViT": lambda arch: timm.create_model(f"deit_{arch}_patch16_224"),
    "DynConvSwin": lambda arch: timm.create_model(f"swin_{arch}_patch4_window7_224"),
}
DENSE: dict[str, Callable[[str], nn.Module]] = {
    "FCViT": fcvit.variant,
    "LightViT": lambda arch: lightvit.variant(arch, True, 512 if arch == "tiny" else None),
}


def original(entry: Weights, model: nn.Module) -> dict[str, Tensor]:
    """A file of the entry in its authors' layout, without numbers."""
    family, arch = entry.architecture.split(":")
    with torch.device("meta"):
        if entry.task == "classification":
            return dict(CLASSIFIERS[family](arch).state_dict())
        if family == "ParCNet":
            return ssd(arch) if entry.task == "detection" else deeplab(arch)
        backbone = DENSE[family](arch).state_dict()
    others = {k: v for k, v in model.state_dict().items() if k.startswith(OTHER_PARTS)}
    return {**{f"backbone.{key}": value for key, value in backbone.items()}, **others}


@pytest.mark.parametrize("name", LOADABLE)
def test_every_file_fills_its_model(name):
    entry = INDEX[name]
    model = load_model(resource_root() / entry.config, device="meta").module
    file = {  # zeros that take no memory
        key: torch.zeros((), dtype=value.dtype).expand(value.shape)
        for key, value in original(entry, model).items()
    }
    adapted = adapt_checkpoint({"state_dict": file}, model)["state_dict"]
    check_match(adapted, model)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    monkeypatch.setenv("MMVITCONV_HOME", str(tmp_path / "home"))
    with servers.serve() as server:
        monkeypatch.setenv("MMVITCONV_MIRROR", server.url)
        yield server


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("fcvit_tiny", 96),
        ("lightvit_tiny", 96),
        ("convmixer_1024_20", 56),
        ("parcnet_s", 64),
        ("deit_tiny", 224),
        ("swin_tiny", 224),
    ],
)
def test_a_name_gives_the_original_s_outputs(name, size, mirror, tmp_path, monkeypatch):
    entry = INDEX[name]
    family, arch = entry.architecture.split(":")
    torch.manual_seed(0)
    theirs = CLASSIFIERS[family](arch).eval()
    for parameter in theirs.parameters():
        if parameter.dim() == 1 and len(parameter) == 1000:  # logits say what the image says
            nn.init.zeros_(parameter)
    torch.save({"state_dict": theirs.state_dict(), "epoch": 300}, tmp_path / "file")
    source = replace(entry.sources[0], sha256="")  # these are other numbers than the published
    mirror.files[f"/{name}/{source.file}"] = (tmp_path / "file").read_bytes()
    monkeypatch.setattr(addresses, "find_weights", lambda _: replace(entry, sources=(source,)))
    loaded = load_model(resource_root() / entry.config, entry.uri, device="cpu")
    assert loaded.weights == f"weights of {entry.uri}"
    ours = loaded.module
    ours, theirs, image = ours.double(), theirs.double(), torch.rand(1, 3, size, size).double()
    with torch.no_grad():
        features = ours.extract_feat(image)
        logits = theirs(image)
        scale = logits.abs().max().item()
        torch.testing.assert_close(ours.head(features), logits, rtol=1e-6, atol=1e-9 * scale)
