"""What a replacement by ParC changed and what it costs."""

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["ParCReport", "Replacement"]


@dataclass(frozen=True)
class Replacement:
    """What became of one module.

    Args:
        name: Of the module in the model.
        stage: Index of its stage.
        before: What it was.
        after: What it is.
        parameters: Before and after.
        multiply_adds: For one image, before and after.
    """

    name: str
    stage: int
    before: str
    after: str
    parameters: tuple[int, int]
    multiply_adds: tuple[int, int]


@dataclass(frozen=True)
class ParCReport:
    """What :func:`replace_with_parc` replaced and what it costs.

    Args:
        image_size: Height and width of the image that kernel lengths and costs are for.
        replaced: In the order of execution.
    """

    image_size: tuple[int, int]
    replaced: tuple[Replacement, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the replaced modules."""
        return tuple(item.name for item in self.replaced)

    @property
    def parameters(self) -> tuple[int, int]:
        """Parameters of the replaced modules, before and after."""
        return _sum(item.parameters for item in self.replaced)

    @property
    def multiply_adds(self) -> tuple[int, int]:
        """Multiply-adds of the replaced modules for one image, before and after."""
        return _sum(item.multiply_adds for item in self.replaced)

    def __str__(self) -> str:
        """Return a table."""
        rows = [("stage", "name", "was", "is", "parameters", "multiply-adds")]
        for item in self.replaced:
            costs = _costs(item.parameters, item.multiply_adds)
            rows.append((str(item.stage), item.name, item.before, item.after, *costs))
        rows.append(("", "all", "", "", *_costs(self.parameters, self.multiply_adds)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        height, width = self.image_size
        title = (
            f"replaced {len(self.replaced)} modules by ParC (costs for an image of {height} x "
            f"{width}); their parameters are new, and no weights of the original model fill them"
        )
        return "\n".join([title, *lines])


def _sum(pairs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    before, after = zip(*pairs, strict=True)
    return sum(before), sum(after)


def _costs(parameters: tuple[int, int], multiply_adds: tuple[int, int]) -> tuple[str, str]:
    before, after = (f"{count / 1e6:,.1f}M" for count in multiply_adds)
    return f"{parameters[0]:,} -> {parameters[1]:,}", f"{before} -> {after}"
