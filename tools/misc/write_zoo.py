"""Write what can be counted of every config and architecture to where it is said.

python tools/misc/write_zoo.py [--check]

That is the head comment of each config, the metafile and the README of each family, the project's
README (a row a family), ``docs/zoo.md`` (all architectures and configs), and the table from which
``mmvitconv list`` and ``info`` answer.

Parameters and multiply-adds come from the models themselves, names and addresses of weights from
the index (``mmvitconv/weights/index.yml``), published results from the ledger
(``configs/sources.yml``). A ``# Published:`` line that starts with "nothing" is written by hand. A
``# Measured:`` line is replaced where it is still ``@@`` or starts with
``not trained here;``, so the result of a training, written by hand, stays. ``--check`` writes
nothing and fails when a file is out of date.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from mmengine.config import Config

from mmvitconv.cli import execute
from mmvitconv.engine.configuration import load_config
from mmvitconv.engine.quiet import quiet_logger
from mmvitconv.errors import UserError
from mmvitconv.weights.index import Weights, read_index
from mmvitconv.zoo.costs import count_complexity
from mmvitconv.zoo.loading import load_model
from mmvitconv.zoo.measuring import measure_families
from mmvitconv.zoo.table import Arch, to_json

ROOT = Path(__file__).resolve().parents[2]
ARCHS_FILE = "mmvitconv/zoo/table.json"
UNTRAINED = "not trained here;"
PLACEHOLDER = "@@"
# The line and those that continue it, which are indented further.
MEASURED = re.compile(r"^# Measured:  (.+(?:\n#   +.+)*)$", re.MULTILINE)
PUBLISHED = re.compile(r"^# Published: (?!nothing).*(?:\n#   +.+)*$", re.MULTILINE)
WORDS = {"Top 1 Accuracy": "top-1", "Top 5 Accuracy": "top-5"}  # else as in the ledger
TASKS = {  # of a figure, by its metric
    "Top 1 Accuracy": "Image Classification",
    "Top 5 Accuracy": "Image Classification",
    "box AP": "Object Detection",
    "mask AP": "Instance Segmentation",
    "mIoU": "Semantic Segmentation",
}
DATASETS = {  # by the last word of a config's name
    "imagenet": "ImageNet-1k",
    "cifar10": "CIFAR-10",
    "coco": "COCO",
    "ade20k": "ADE20K",
    "voc": "PASCAL VOC 2012",
    "cityscapes": "Cityscapes",
}
TABLE = re.compile(r"(?<=<!-- zoo: begin -->\n).*?(?=<!-- zoo: end -->)", re.DOTALL)
HEADER = (
    "| config | model | backbone | multiply-adds | image | published, not reproduced here "
    "| trained here | weights |\n|---|---:|---:|---:|---|---|---|---|\n"
)
FAMILY_HEADER = (
    "| family | paper | parameters | ImageNet top-1, published | strides | weights |\n"
    "|---|---|---:|---:|---|---|\n"
)
ARCH_HEADER = (
    "| backbone | `arch` | parameters | multiply-adds | strides | ImageNet top-1, published "
    "| weights |\n|---|---|---:|---:|---|---|---|\n"
)

# Arguments of backbones on which multiply-adds do not depend: many configs share a backbone.
UNCOUNTED = {"init_cfg", "drop_path_rate", "norm_eval", "with_cp", "frozen_stages"}
_COUNTED: dict[str, int] = {}
# Columns of the matrix: method, schedule and data set as the names of configs have them.
COLUMNS = {
    "ImageNet": ("", "", "imagenet"),
    "Mask R-CNN 1x": ("maskrcnn", "", "coco"),
    "Mask R-CNN 3x": ("maskrcnn", "3x", "coco"),
    "Mask R-CNN LSJ": ("maskrcnn", "lsj_100e", "coco"),
    "Cascade 3x": ("cascade_maskrcnn", "3x", "coco"),
    "RetinaNet 1x": ("retinanet", "", "coco"),
    "DINO": ("dino", "", "coco"),
    "Mask2Former": ("mask2former", "", "coco"),
    "UperNet": ("upernet", "", "ade20k"),
    "Semantic FPN": ("fpn", "", "ade20k"),
    "Mask2Former ADE20K": ("mask2former", "", "ade20k"),
    "Cityscapes": ("upernet", "", "cityscapes"),
}
_PARTS = re.compile(
    rf"(?:({'|'.join(sorted({column[0] for column in COLUMNS.values()} - {''}))})_)?"
    r"(.+?)(?:_(3x|lsj_100e))?_([a-z0-9]+)"
)


@dataclass(frozen=True)
class Costs:
    """What the model of a config costs.

    Args:
        shape: Height and width of the image in pixels.
        parameters: Parameters of the whole model.
        backbone_parameters: Parameters of its backbone.
        macs: Multiply-adds for one image: of the whole classifier, else of the backbone.
    """

    shape: tuple[int, int]
    parameters: int
    backbone_parameters: int
    macs: int

    def sentence(self) -> str:
        """The costs as the head comment of a config says them."""
        size = "x".join(map(str, self.shape))
        return (
            f"{UNTRAINED} model {self.parameters / 1e6:.2f}M parameters; backbone "
            f"{self.backbone_parameters / 1e6:.2f}M, {self.macs / 1e9:.2f}G MACs at {size}"
        )


def measure(config: Config) -> Costs:
    """Count parameters and multiply-adds on the meta device: no memory, no arithmetic.

    Args:
        config: A config of one of the three tasks.

    Returns:
        The costs, for one image of the config's test size.
    """
    with warnings.catch_warnings(), quiet_logger():
        warnings.simplefilter("ignore")  # mmseg's, about its own code
        loaded = load_model(config, device="meta")
        model, shape = loaded.module, loaded.shape
        image = torch.empty(1, loaded.in_channels, *shape, device="meta")
        # The heads of detectors look at values, which do not exist here.
        if loaded.task == "classification":
            macs = count_complexity(model, {"inputs": image, "mode": "tensor"}).macs.total
        else:
            backbone = {k: v for k, v in config.model.backbone.items() if k not in UNCOUNTED}
            key = json.dumps([backbone, shape], sort_keys=True)
            if key not in _COUNTED:
                _COUNTED[key] = count_complexity(model.backbone, (image,)).macs.total
            macs = _COUNTED[key]
    parameters, backbone_parameters = (
        sum(parameter.numel() for parameter in module.parameters())
        for module in (model, model.backbone)
    )
    return Costs(shape, parameters, backbone_parameters, macs)


def metadata_of(config: Config, costs: Costs) -> dict[str, Any]:
    """The fields of a metafile that are derived from the config.

    Args:
        config: The config.
        costs: What its model costs.

    Returns:
        Numbers by the names that modelindex and OpenMMLab's metafiles use. ``FLOPs`` are
        multiply-adds, as everywhere in OpenMMLab.
    """
    fields: dict[str, Any] = {"Parameters": costs.parameters}
    if config.default_scope == "mmpretrain":
        fields["FLOPs"] = costs.macs
    else:
        fields["Backbone Parameters"] = costs.backbone_parameters
        fields["Backbone FLOPs"] = costs.macs
    fields["Image Size"] = "x".join(map(str, costs.shape))
    fields["Batch Size"] = config.auto_scale_lr.base_batch_size
    loop = config.train_cfg
    if "max_epochs" in loop:
        fields["Epochs"] = loop.max_epochs
    else:
        fields["Iterations"] = loop.max_iters
    return fields


@dataclass(frozen=True)
class Quoted:
    """What one source says of a config: source with version, and figures as it prints them."""

    source: str
    figures: Mapping[str, str]


def read_ledger(path: Path) -> dict[str, list[Quoted]]:
    """Read the ledger of published figures.

    Args:
        path: ``configs/sources.yml``.

    Returns:
        The sources of each config, first to last.
    """
    ledger: dict[str, list[Quoted]] = {}
    for entry in yaml.load(path.read_text("utf-8"), yaml.BaseLoader):  # figures as they are quoted
        known = entry["version"] != "not recorded"
        source = f"{entry['source']}, {entry['version']}" if known else entry["source"]
        for name, figures in entry.get("figures", {}).items():
            ledger.setdefault(name, []).append(Quoted(source, figures))
    return ledger


def results_of(name: str, quoted: Sequence[Quoted]) -> dict[str, Any]:
    """A metafile's ``Published In`` and ``Results``: of each metric what the first source says.

    Args:
        name: A config.
        quoted: What the ledger has of it, at least one source.
    """
    first = {}
    for entry in quoted:
        for metric, value in entry.figures.items():
            first.setdefault(metric, (value, entry.source))
    by_task: dict[str, dict[str, float]] = {}
    for metric, (value, _) in first.items():
        by_task.setdefault(TASKS[metric], {})[metric] = float(value)
    sources = dict.fromkeys(source for _, source in first.values())
    dataset = DATASETS[name.rpartition("_")[2]]
    return {
        "Published In": f"{'; '.join(sources)}; not reproduced here",
        "Results": [
            {"Task": task, "Dataset": dataset, "Metrics": metrics}
            for task, metrics in by_task.items()
        ],
    }


def update_published(text: str, name: str, quoted: Sequence[Quoted], size: int | None) -> str:
    """Write the ``# Published:`` lines of a head comment, one for each source that adds a figure.

    Args:
        text: A config file.
        name: The config's name, for the message.
        quoted: What the ledger has of it.
        size: Side of a classifier's images, else None.

    Returns:
        The file's new text.

    Raises:
        UserError: The head comment names figures that the ledger lacks, or the other way round.
    """
    said: set[tuple[str, str]] = set()
    lines = []
    for entry in quoted:
        new = [item for item in entry.figures.items() if item not in said]
        said |= set(new)
        if new:
            figures = ", ".join(f"{WORDS.get(metric, metric)} {value}" for metric, value in new)
            where = f" at {size}" if size and not lines else ""
            lines.append(f"{figures}{where} ({entry.source})")
    if len(PUBLISHED.findall(text)) != bool(lines):
        raise UserError(
            f"the head comment of {name} and configs/sources.yml disagree about whether anything "
            "is published; write '# Published: nothing: ...' or add the figure with its source"
        )
    return PUBLISHED.sub(lambda _: "# Published: " + "\n#            ".join(lines), text)


def update_head_comment(text: str, costs: Costs, name: str) -> str:
    """Fill in the ``# Measured:`` line unless it holds the result of a training.

    Args:
        text: A config file.
        costs: What its model costs.
        name: The config's name, for the message.

    Returns:
        The file's new text.

    Raises:
        UserError: The head comment has no such line, or several.
    """
    found = MEASURED.findall(text)
    if len(found) != 1:
        raise UserError(
            f"the head comment of {name} has {len(found)} lines '# Measured:  ...'; give it one, "
            f"with {PLACEHOLDER} for what this command shall fill in"
        )
    if found[0] != PLACEHOLDER and not found[0].startswith(UNTRAINED):
        return text
    return MEASURED.sub(lambda _: f"# Measured:  {costs.sentence()}", text)


def update_metafile(
    text: str,
    fields: Mapping[str, Mapping[str, Any]],
    directory: str,
    ledger: Mapping[str, Sequence[Quoted]],
) -> tuple[str, list[dict[str, Any]]]:
    """Bring the derived fields of a metafile up to date and add configs that it lacks.

    Args:
        text: The metafile; the comment at its top stays, comments further down do not.
        fields: Derived fields of each config of the family, by config name.
        directory: The family's folder, relative to the repository.
        ledger: Published figures by config.

    Returns:
        The file's new text and its models.

    Raises:
        UserError: The metafile describes a config that does not exist.
    """
    content = yaml.safe_load(text)
    models = content.get("Models") or []
    listed = [model["Name"] for model in models]
    gone = sorted(set(listed) - set(fields))
    if gone:
        raise UserError(f"{directory}/metafile.yml lists {', '.join(gone)}, but has no such config")
    collection = content["Collections"][0]["Name"]
    models += [{"Name": name} for name in fields if name not in listed]
    content["Models"] = [
        _complete(
            model, collection, directory, fields[model["Name"]], ledger.get(model["Name"], [])
        )
        for model in models
    ]
    head = re.match(r"(?:#.*\n)*", text).group()
    written = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    return head + written, content["Models"]


def _complete(
    model: Mapping[str, Any],
    collection: str,
    directory: str,
    derived: Mapping[str, Any],
    quoted: Sequence[Quoted],
) -> dict[str, Any]:
    """A model's entry with what is derived first; all else stays as it was written."""
    metadata = model.get("Metadata") or {}
    config = f"{directory}/{model['Name']}.py"
    first = {
        "Name": model["Name"],
        "In Collection": collection,
        "Config": config,
        "Metadata": {**derived, **{k: v for k, v in metadata.items() if k not in derived}},
    }
    weights = weights_of_config(config)
    direct = [source for source in weights.sources if source.kind == "direct"] if weights else []
    if direct:  # what 'mim download' fetches, by one request
        first["Weights"] = direct[0].address
    if quoted:
        first |= results_of(model["Name"], quoted)
    derived = ("Weights", "Published In", "Results", *first)
    return {**first, **{k: v for k, v in model.items() if k not in derived}}


def weights_of_config(config: str) -> Weights | None:
    """The published weights that fill a config's model.

    Args:
        config: ``'configs/fcvit/fcvit_s12_imagenet.py'``.
    """
    return next((entry for entry in read_index().values() if entry.config == config), None)


@dataclass(frozen=True)
class Family:
    """A folder of configs: its name, its files as they should be, and what tables are made of."""

    name: str
    directory: str
    texts: Mapping[Path, str]
    models: Sequence[Mapping[str, Any]]
    costs: Mapping[str, Costs]
    measured: Mapping[str, str]


def table_of(
    models: Sequence[Mapping[str, Any]],
    costs: Mapping[str, Costs],
    measured: Mapping[str, str],
    folder: str = "",
) -> str:
    """The table of a family's configs.

    Args:
        models: The models of the metafile, in its order.
        costs: What each of them costs, by config name.
        measured: The ``# Measured:`` text of each.
        folder: Where the configs are, seen from the page.

    Returns:
        Lines of Markdown.
    """
    rows = []
    for model in models:
        name = model["Name"]
        cost = costs[name]
        published = "; ".join(
            f"{metric} {value}"
            for result in model.get("Results") or []
            for metric, value in result["Metrics"].items()
        )
        trained = "" if measured[name].startswith(UNTRAINED) else measured[name]
        weights = weights_of_config(model["Config"])
        cells = (
            f"[{name}]({folder}{name}.py)",
            f"{cost.parameters / 1e6:.2f} M",
            f"{cost.backbone_parameters / 1e6:.2f} M",
            f"{cost.macs / 1e9:.2f} G",
            f"{cost.shape[0]} x {cost.shape[1]}",
            published or "-",
            trained or "-",
            f"`{weights.name}`" if weights else "-",
        )
        rows.append(f"| {' | '.join(cells)} |\n")
    return HEADER + "".join(rows)


def update_family(folder: Path, ledger: Mapping[str, Sequence[Quoted]]) -> Family:
    """Compute the files of one family as they should be.

    Args:
        folder: A folder in ``configs`` with ``metafile.yml`` and ``README.md``.
        ledger: Published figures by config.

    Returns:
        The family, with the text of each config, the metafile and the README.

    Raises:
        UserError: A file lacks the place that shall be filled in.
    """
    texts: dict[Path, str] = {}
    costs, fields, measured = {}, {}, {}
    for path in sorted(folder.glob("*.py")):
        config = load_config(str(path))
        cost = costs[path.stem] = measure(config)
        fields[path.stem] = metadata_of(config, cost)
        text = update_head_comment(path.read_text("utf-8"), cost, path.stem)
        size = cost.shape[0] if config.default_scope == "mmpretrain" else None
        texts[path] = text = update_published(text, path.stem, ledger.get(path.stem, []), size)
        measured[path.stem] = re.sub(r"\n#\s*", " ", MEASURED.search(text).group(1))
    metafile, readme = folder / "metafile.yml", folder / "README.md"
    directory = f"configs/{folder.name}"
    texts[metafile], models = update_metafile(
        metafile.read_text("utf-8"), fields, directory, ledger
    )
    texts[readme] = fill_table(readme, table_of(models, costs, measured), f"{directory}/README.md")
    name = yaml.safe_load(texts[metafile])["Collections"][0]["Name"]
    return Family(name, directory, texts, models, costs, measured)


def fill_table(path: Path, table: str, name: str) -> str:
    """The text of a page with a new table.

    Args:
        path: The page.
        table: What stands between its marks.
        name: The page, for the message.

    Raises:
        UserError: The page does not exist, or has no marks, or several.
    """
    text = path.read_text("utf-8") if path.is_file() else ""
    filled, places = TABLE.subn(lambda _: table, text)
    if places != 1:
        raise UserError(
            f"{name} must have the lines '<!-- zoo: begin -->' and "
            f"'<!-- zoo: end -->' once, around its table"
        )
    return filled


def matrix(families: Sequence[Family]) -> str:
    """The table of architectures against tasks, with its holes.

    Args:
        families: All families with their models.

    Returns:
        Lines of Markdown: a cell links to the config, with what is published for it.
    """
    places = {column: title for title, column in COLUMNS.items()}
    rows: dict[str, dict[str, str]] = {}
    for family in families:
        for model in family.models:
            method, name, schedule, dataset = _PARTS.fullmatch(model["Name"]).groups(default="")
            title = places.get((method, schedule, dataset))
            if title is None:  # small data, or a head of one network
                continue
            results = model.get("Results") or []
            figures = (str(value) for result in results for value in result["Metrics"].values())
            shown = next(figures, "ours")
            rows.setdefault(name, {})[title] = f"[{shown}](../{model['Config']})"
    lines = [
        f"| {' | '.join(['backbone', *COLUMNS])} |\n",
        f"|---{'|---' * len(COLUMNS)}|\n",
        *(
            f"| `{name}` | {' | '.join(cells.get(title, '-') for title in COLUMNS)} |\n"
            for name, cells in rows.items()
        ),
    ]
    return (
        "\n## Matrix\n\nA cell is a config: what is published for it (top-1, box AP or mIoU), or"
        ' "ours" where the\ncombination or its recipe is ours. A dash is a hole.\n\n'
        + "".join(lines)
    )


def families_table(families: Sequence[Family]) -> str:
    """All configs, under one heading per family."""
    return "".join(
        f"\n## {family.name}\n\n[About the family](../{family.directory}/README.md)\n\n"
        + table_of(family.models, family.costs, family.measured, f"../{family.directory}/")
        for family in families
    )


def architectures_table(archs: Sequence[Arch]) -> str:
    """All architectures of the registry, for a page in docs.

    Args:
        archs: What was measured.

    Returns:
        Lines of Markdown.
    """
    rows = []
    folders = {arch.family: Path(config.path).parent for arch in archs for config in arch.configs}
    for arch in archs:
        if arch.family not in folders:
            need = "add one with a metafile.yml, and that to model-index.yml"
            raise UserError(f"no config that is listed has a backbone of {arch.family}; {need}")
        published = [
            f"[{result.value}](../{config.path}) ({re.split('[,;] ', result.source)[0]})"
            for config in arch.configs
            for result in config.results
            if (result.dataset, result.metric) == ("ImageNet-1k", "Top 1 Accuracy")
        ]
        cells = (
            f"[{arch.family}](../{folders[arch.family]}/README.md)",
            f"`{arch.arch}`",
            f"{arch.parameters / 1e6:.2f} M",
            f"{arch.macs_224 / 1e9:.2f} G",
            ", ".join(map(str, arch.strides)),
            "; ".join(published) or "-",
            ", ".join(f"`{name}`" for name in arch.weights) or "-",
        )
        rows.append(f"| {' | '.join(cells)} |\n")
    return ARCH_HEADER + "".join(rows)


def families_summary(archs: Sequence[Arch]) -> str:
    """A row for each family: the range of its sizes and of its published accuracies."""
    rows = []
    for family in dict.fromkeys(arch.family for arch in archs):
        own = [arch for arch in archs if arch.family == family]
        configs = [config for arch in own for config in arch.configs]
        sizes = [arch.parameters / 1e6 for arch in own]
        published = [
            result.value
            for config in configs
            for result in config.results
            if (result.dataset, result.metric) == ("ImageNet-1k", "Top 1 Accuracy")
        ]
        weights = any(arch.weights for arch in own)
        strides = dict.fromkeys(", ".join(map(str, dict.fromkeys(arch.strides))) for arch in own)
        cells = (
            f"[{family}]({Path(configs[0].path).parent}/README.md)",
            f"[{own[0].paper.title}]({own[0].paper.url})",
            _range(sizes, ".1f") + " M",
            _range(published, "g") if published else "-",
            " or ".join(strides),
            "yes" if weights else "-",
        )
        rows.append(f"| {' | '.join(cells)} |\n")
    return FAMILY_HEADER + "".join(rows)


def _range(values: Sequence[float], form: str) -> str:
    """The least and the greatest value, or the only one."""
    ends = dict.fromkeys(f"{value:{form}}" for value in (min(values), max(values)))
    return " - ".join(ends)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The command line; None for ``sys.argv``.

    Returns:
        Exit code: 0; 1 after a mistake of the user, or if ``--check`` finds an old file.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if a file is old")
    parser.add_argument(
        "--configs",
        type=Path,
        default=ROOT / "configs",
        help="one folder per family; beside it are README.md and docs",
    )
    return execute(parser, lambda: _update(parser.parse_args(arguments)))


def _update(options: argparse.Namespace) -> int:
    """Bring the files up to date, or say which are old."""
    old: list[Path] = []
    root = options.configs.absolute().parent
    ledger = read_ledger(options.configs / "sources.yml")
    families = [
        update_family(metafile.parent, ledger)
        for metafile in sorted(options.configs.glob("*/metafile.yml"))
    ]
    texts = {path: text for family in families for path, text in family.texts.items()}
    measured = measure_families()
    archs = [arch for family in measured.values() for arch in family.archs]
    if (root / ARCHS_FILE).parent.is_dir():
        texts[root / ARCHS_FILE] = to_json(measured)
    for name, table in (
        (
            "docs/zoo.md",
            architectures_table(archs) + matrix(families) + families_table(families),
        ),
        ("README.md", families_summary(archs)),
    ):
        texts[root / name] = fill_table(root / name, table, name)
    for path, text in texts.items():
        if not path.is_file() or path.read_text("utf-8") != text:
            old.append(path)
            if not options.check:
                path.write_text(text, "utf-8")
    for path in old:
        print(f"{'out of date' if options.check else 'written'}: {path}")
    if options.check and old:
        print("bring them up to date with: python tools/misc/write_zoo.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
