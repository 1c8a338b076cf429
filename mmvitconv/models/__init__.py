"""All models; importing this package registers them."""

from mmvitconv.models import backbones  # noqa: F401
