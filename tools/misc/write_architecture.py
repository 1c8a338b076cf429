"""Write what docs/architecture.md shows of the imports: its table, and the drawing beside it.

The parts of the package, from top to bottom, are :data:`LAYERS`. A part may import those below it
and none beside or above. ``tests/test_architecture.py`` holds the code and the page against this.

Usage: ``python tools/misc/write_architecture.py [--check]``
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "mmvitconv"
PAGE = ROOT / "docs/architecture.md"
DRAWING = ROOT / "docs/images/architecture.svg"
BEGIN, END = "<!-- imports: begin -->", "<!-- imports: end -->"

# From top to bottom; the parts of one row do not import each other.
LAYERS = (
    ("cli",),
    ("export",),
    ("analysis",),
    ("apis", "doctor", "timm"),
    ("zoo",),
    ("checks",),
    ("engine",),
    ("datasets", "runtime"),
    ("models",),
    ("weights", "ops"),
    ("registry", "resources", "compat"),
    ("errors", "version"),
)
FOUNDATION = LAYERS[-2:]  # what every part may import
# The package's own file makes a fresh interpreter find mmcv's operators; everything imports it.
OUTSIDE = ("", "__main__")


def read_imports(root: Path = ROOT) -> dict[str, set[str]]:
    """Read which modules each module of the package imports, lazy imports included.

    Args:
        root: Folder that holds the package.

    Returns:
        By full name of a module the modules of the package that it imports, at whatever depth of
        the code, except those for a type checker alone.
    """
    files = {_name(path, root): path for path in sorted((root / PACKAGE).rglob("*.py"))}
    return {
        name: {target for target in _targets(path, files) if target != name}
        for name, path in files.items()
    }


def _name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _targets(path: Path, files: dict[str, Path]) -> Iterator[str]:
    for node in _walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in files)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(PACKAGE):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in files else node.module
        elif isinstance(node, ast.Call) and _is_import_call(node):
            yield from (arg.value for arg in node.args[:1] if arg.value in files)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes but those below ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _walk(child)


def _is_import_call(node: ast.Call) -> bool:
    return (
        ast.unparse(node.func).endswith("import_module")
        and bool(node.args)
        and isinstance(node.args[0], ast.Constant)
    )


def part_of(module: str) -> str:
    """Return the part that a module belongs to: the folder or file below the package."""
    return module.removeprefix(PACKAGE).lstrip(".").partition(".")[0]


def find_arrows(imports: dict[str, set[str]]) -> set[tuple[str, str]]:
    """Find which parts import which: pairs of who imports and what is imported."""
    pairs = {(part_of(s), part_of(t)) for s, targets in imports.items() for t in targets}
    return {pair for pair in pairs if pair[0] != pair[1] and not set(pair) & set(OUTSIDE)}


def height_of(part: str) -> int:
    """Return the row of a part in :data:`LAYERS`, counted from the top; unknown ones raise."""
    for row, parts in enumerate(LAYERS):
        if part in parts:
            return row
    raise ValueError(f"mmvitconv/{part} is in no layer; name it in {Path(__file__).name}: LAYERS")


def find_circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Find modules that import each other, directly or through others."""
    groups = nx.strongly_connected_components(nx.DiGraph(imports))
    return sorted(sorted(group) for group in groups if len(group) > 1)


def write_table(arrows: set[tuple[str, str]]) -> str:
    """Write the table of what each part imports."""
    rows = ["| part | imports |", "| --- | --- |"]
    for part in (part for parts in LAYERS for part in parts):
        targets = sorted((t for s, t in arrows if s == part), key=lambda t: (height_of(t), t))
        text = ", ".join(f"`{target}`" for target in targets)
        rows.append(f"| `{part}` | {text or 'nothing'} |")
    return "\n".join(rows)


def draw(arrows: set[tuple[str, str]], path: Path) -> None:
    """Draw the parts as boxes, from top to bottom, and the imports between them as arrows.

    An arrow that follows from two others is left out, and so are those to the foundation, which
    every part may import.
    """
    import matplotlib as mpl
    from matplotlib import pyplot as plt
    from matplotlib.patches import FancyArrowPatch

    mpl.rcParams.update({"svg.hashsalt": PACKAGE, "svg.fonttype": "none"})
    figure, axes = plt.subplots(figsize=(6.4, 6.4))
    places = {}
    for row, parts in enumerate(LAYERS[: -len(FOUNDATION)]):
        for column, part in enumerate(parts):
            # single parts are set off to both sides, so that long arrows pass beside the boxes
            shift = (0.8 if row % 2 else -0.8) if len(parts) == 1 else 0.0
            places[part] = 2.4 * (column - (len(parts) - 1) / 2) + shift, -float(row)
    bottom = -float(len(LAYERS) - len(FOUNDATION))
    foundation = ", ".join(part for parts in FOUNDATION for part in parts)
    style = {"boxstyle": "round,pad=0.45", "facecolor": "#eef3fa", "edgecolor": "#33507a"}
    boxes = {
        part: axes.text(*place, part, ha="center", va="center", bbox=style, fontsize=11)
        for part, place in {**places, foundation: (0.0, bottom - 0.1)}.items()
    }
    drawn = nx.DiGraph(pair for pair in arrows if set(pair) <= set(places))
    for source, target in sorted(nx.transitive_reduction(drawn).edges):
        ends = {"patchA": boxes[source].get_bbox_patch(), "patchB": boxes[target].get_bbox_patch()}
        look = {"arrowstyle": "-|>", "mutation_scale": 12, "color": "#7c8ca3"}
        axes.add_patch(FancyArrowPatch(places[source], places[target], **ends, **look))
    axes.set(xlim=(-2.7, 2.7), ylim=(bottom - 0.6, 0.5))
    axes.axis("off")
    figure.tight_layout(pad=0.2)
    figure.canvas.draw()  # places the boxes, at which the arrows end
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Write the page and the drawing, or say whether the page is old."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if the page is old")
    args = parser.parse_args(argv)
    arrows = find_arrows(read_imports())
    old = PAGE.read_text("utf-8")
    pattern = re.compile(f"(?<={BEGIN}\n).*(?={END})", re.DOTALL)
    new = pattern.sub(lambda _: f"\n{write_table(arrows)}\n\n", old)
    if args.check:
        if new != old:
            print(f"docs/architecture.md is old; run python tools/misc/{Path(__file__).name}")
        return int(new != old)
    PAGE.write_text(new, "utf-8")
    draw(arrows, DRAWING)
    return 0


if __name__ == "__main__":
    sys.exit(main())
