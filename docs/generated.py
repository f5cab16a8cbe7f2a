"""Makes pages of what lies elsewhere in the repository: notebooks, recorded measurements, cards and flags.

Each is kept once, where it belongs, and read when the site is built.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "experiments" / "synthetic" / "figures"
# Of the site -> of the repository.
TEXTS = {
    "measurements/benchmarks.md": "benchmarks/README.md",
    "measurements/gpu.md": "benchmarks/gpu.md",
    "measurements/ablation.md": "experiments/ablation/README.md",
    "measurements/market.md": "experiments/market/README.md",
    "measurements/pit.md": "experiments/pit/README.md",
    "measurements/synthetic.md": "experiments/synthetic/README.md",
    "measurements/real.md": "experiments/real/README.md",
    "measurements/people.md": "experiments/people/README.md",
    "cards/synthetic.md": "saved_models/synthetic/README.md",
    "cards/people.md": "saved_models/people/README.md",
    "cards/people_scratch.md": "saved_models/people_scratch/README.md",
    "cards/painting.md": "saved_models/painting/README.md",
}
# The dataclasses whose fields are flags.
FLAGS = {
    "The recipe": "san_tf/experiments/recipe.py",
    "Where and how an experiment runs": "san_tf/experiments/flags.py",
    "The evaluation command": "san_tf/evaluation/options.py",
}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add figures, texts, notebooks and the page of flags."""

    def add(place: str, **source: str) -> None:
        if files.get_file_from_path(place) is None:
            files.append(File.generated(config, place, **source))

    for path in sorted(FIGURES.iterdir()):
        add(f"figures/{path.name}", abs_src_path=str(path))
    for place, source in TEXTS.items():
        text, pictures = as_page(place, ROOT / source)
        add(place, content=text)
        for picture, path in pictures.items():
            add(picture, abs_src_path=str(path))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        add(f"notebooks/{path.stem}.md", content=notebook_as_page(path))
    add("flags.md", content=flags_page())
    return files


def as_page(place: str, source: Path) -> tuple[str, dict[str, Path]]:
    """A text of the repository as a page: its pictures come along, and links lead where the site has a page.

    Returns:
        Markdown, and the pictures by their place on the site.
    """
    pages = {(ROOT / name).resolve(): page for page, name in TEXTS.items()}
    pictures: dict[str, Path] = {}

    def relink(match: re.Match[str]) -> str:
        mark, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        if "://" in target:
            return match[0]
        path = (source.parent / target).resolve()
        if mark:
            picture = f"{Path(place).with_suffix('')}/{path.name}"
            pictures[picture] = path
            return f"![{text}]({os.path.relpath(picture, Path(place).parent)})"
        if path in pages:
            return f"[{text}]({os.path.relpath(pages[path], Path(place).parent)}{anchor})"
        return f"{text} (`{path.relative_to(ROOT)}`)" if path.is_relative_to(ROOT) else text

    return _LINK.sub(relink, source.read_text()), pictures


def notebook_as_page(path: Path) -> str:
    """A notebook's cells, one after the other, with the way to run it."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    title, rest = parts[0].split("\n", 1)
    run = (
        f"\nThe notebook is `notebooks/{path.name}` in the repository. It runs as it is: install the package"
        " with `pip install . jupyterlab`, then start `jupyter lab notebooks`.\n"
    )
    return "\n\n".join([title, run, rest.strip(), *parts[1:]]) + "\n"


def flags_page() -> str:
    """All flags with meaning and default, from the dataclasses' source: nothing has to be imported."""
    lines = [
        "# Every flag",
        "",
        "A flag and its key in a recipe file have the same name: `--erasing 0.3`, `erasing: 0.3`. The lists",
        "are made from the source when this site is built. `--help` prints them, with the defaults of the",
        "experiment at hand, which may differ from those below.",
    ]
    for title, source in FLAGS.items():
        lines += ["", f"## {title}"]
        for node in ast.parse((ROOT / source).read_text()).body:
            if isinstance(node, ast.ClassDef) and (fields := list(_fields(node))):
                heading = (ast.get_docstring(node) or node.name).splitlines()[0].rstrip(".")
                lines += ["", f"### {heading}", "", "| flag | default | meaning |", "|---|---|---|", *fields]
    return "\n".join(lines) + "\n"


def _fields(node: ast.ClassDef) -> Iterator[str]:
    for field, text in zip(node.body, node.body[1:], strict=False):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if not (isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)):
            continue
        meaning = " ".join(str(text.value.value).split()).replace("|", "\\|")
        yield f"| `--{field.target.id}` | {_shown(field.value)} | {meaning} |"


def _shown(default: ast.expr | None) -> str:
    """A default as a recipe file would have it; nothing where it is computed."""
    try:
        value = ast.literal_eval(default) if default is not None else ""
    except ValueError:
        return ""
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    values = value if isinstance(value, tuple) else (value,)
    return f"`{' '.join(map(str, values))}`" if value != "" else ""
