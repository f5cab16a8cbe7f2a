"""Speed and memory of evaluation and re-ranking, compared with a matrix product and peers.

    python benchmarks/evaluation.py [--peers DIR] [--rounds 5] [--quick] [--growth] [--msmt17] [--million]

All contestants take turns, for several rounds; those that need a minute run once. Peers take part if
`--peers` names a folder with the sources of torchreid (`torchreid/`) and fast-reid (`fast-reid/`), and their
Cython is compiled (see the README beside this file). The script prints tables, and writes
`results/evaluation.json` and, with `--growth`, `results/evaluation_growth.png`. Earlier results that are not
measured again stay in the file.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from contestants import RESULTS, Contestant, MissingError, new_parser, write_results
from evaluation_contestants import Problem, prepare
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

RANKING = (
    "matrix product, NumPy",
    "san_tf, from features",
    "san_tf, from the matrix",
    "torchreid Cython, from the matrix",
    "fast-reid Cython, from the matrix",
    "torchreid Python, from the matrix",
)
RERANKING = (
    "all-pairs product, NumPy",
    "san_tf, re-ranked, from features",
    "torchreid, re-ranked, from matrices",
    "fast-reid Jaccard on CPU, from features",
)
# These take a minute or more at the size of Market-1501.
ONCE = (RANKING[-1], *RERANKING[2:])
GROWTH = (5_000, 10_000, 20_000, 40_000)
Row = dict[str, float | list[float] | str]


def contest(
    names: tuple[str, ...], problem: Problem, peers: Path | None, rounds: int, console: Console
) -> dict[str, Row]:
    """Run contestants in turns; missing ones are reported and left out.

    Args:
        names: of the contestants.
        problem: what to evaluate.
        peers: folder of the peers' sources.
        rounds: number of rounds.
        console: where to print.
    """
    there: dict[str, Contestant] = {}
    for name in names:
        try:
            there[name] = Contestant(prepare, name, problem, peers)
        except MissingError as error:
            console.print(f"[dim]{name}: left out, {error}[/dim]")
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in there}
    for number in track(range(rounds), f"{problem.queries} x {problem.images}", transient=True):
        for name, contestant in there.items():
            if number == 0 or name not in ONCE:
                runs[name].append(contestant.ask("run"))
    for contestant in there.values():
        contestant.stop()
    rows = {name: _row(measured) for name, measured in runs.items()}
    # Fast but wrong does not count. fast-reid defines its Jaccard distance differently, so it need not agree.
    scores = {name: row["mAP"] for name, row in rows.items() if "mAP" in row and name != RERANKING[-1]}
    if scores and max(scores.values()) - min(scores.values()) > 1e-5:
        raise SystemExit(f"The contestants disagree on mAP: {scores}")
    return rows


def _row(measured: list[dict[str, float]]) -> Row:
    row: Row = {
        key: float(np.median([run[key] for run in measured])) for key in ("seconds", "processor_seconds")
    }
    row["all_seconds"] = [round(run["seconds"], 3) for run in measured]
    row["extra_MB"] = max(run["extra_MB"] for run in measured)
    return row | {key: measured[0][key] for key in ("rank1", "mAP") if key in measured[0]}


def show(rows: dict[str, Row], title: str, console: Console) -> None:
    """Print seconds, their ratio to the matrix product (first row), and extra memory."""
    table = Table(title=title, title_justify="left", box=box.MARKDOWN)
    for heading in ("", "s", "x product", "CPU s", "MB", "mAP"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    product = next(iter(rows.values()))["seconds"]
    for name, row in rows.items():
        score = f"{row['mAP']:.4f}" if "mAP" in row else ""
        table.add_row(
            name, f"{row['seconds']:.2f}", f"{row['seconds'] / product:.2f}",
            f"{row['processor_seconds']:.2f}", f"{row['extra_MB']:.0f}", score,
        )  # fmt: skip
    console.print(table)


def grow(dimensions: int, console: Console) -> dict[str, dict[str, Row]]:
    """Re-rank growing numbers of images, a sixth of them queries, and time the product alone."""
    found = {}
    for images in GROWTH:
        problem = Problem(images // 6, images - images // 6, dimensions, people=images // 25)
        found[str(images)] = contest((RERANKING[0], RERANKING[1]), problem, None, 2, console)
    return found


def plot(growth: dict[str, dict[str, Row]], dimensions: int) -> None:
    """Draw memory and time over the number of images."""
    from san_tf.visualization import style

    images = np.array([int(size) for size in growth])
    rows = {name: [sizes[name] for sizes in growth.values()] for name in RERANKING[:2]}
    figure = style.new_figure(9.0, 3.7, f"k-reciprocal re-ranking of {dimensions}-d features")
    panels = [
        (
            "memory beyond the features, MB",
            {
                "san_tf": [row["extra_MB"] for row in rows[RERANKING[1]]],
                "one float32 matrix of all pairs": list(images**2 * 4 / 1e6),
            },
        ),
        (
            "seconds",
            {
                "san_tf, features to metrics": [row["seconds"] for row in rows[RERANKING[1]]],
                "product of all pairs alone": [row["seconds"] for row in rows[RERANKING[0]]],
            },
        ),
    ]
    for number, (label, lines) in enumerate(panels):
        left = 0.75 + 4.45 * number
        axes = style.plain_axes(style.place(figure, left, 0.8, 3.6, 2.35))
        for name, values, color in zip(lines, lines.values(), style.SERIES, strict=False):
            axes.plot(images, values, color=color, marker="o", markersize=3.5, linewidth=2, label=name)
        axes.set_xlim(0, images[-1] * 1.04)
        # The matrix of all pairs soon leaves the panel, which shows the linear growth.
        first = max(next(iter(lines.values())))
        axes.set_ylim(0, first * 3 if number == 0 else None)
        axes.set_xticks(images, [f"{size:,}" for size in images])
        axes.set_xlabel("images, query and gallery", fontsize=style.SMALL, color=style.MUTED)
        axes.legend(frameon=False, fontsize=style.SMALL, loc="upper right" if number == 0 else "upper left")
        style.write(figure, label, left - 0.45, 0.62, style.SMALL, style.MUTED)
    style.save_figure(figure, RESULTS / "evaluation_growth.png")


def million(console: Console) -> Row:
    """Rank a gallery of 1,000,000 x 512 on disk, for 1,000 queries, in a fresh process."""
    script = """
import json, sys, time
from pathlib import Path
import numpy as np
from san_tf.evaluation.ranking import evaluate_ranking
rng = np.random.default_rng(1)
gallery = np.load(sys.argv[1], mmap_mode="r")
pids, camids = rng.integers(0, 100_000, len(gallery)), rng.integers(0, 6, len(gallery))
chosen = rng.choice(len(gallery), 1000, replace=False)
queries = gallery[chosen] + rng.standard_normal((1000, 512), np.float32)
start = time.perf_counter()
result = evaluate_ranking(queries, pids[chosen], np.full(1000, 6), gallery, pids, camids)
status = Path("/proc/self/status").read_text().splitlines()  # Linux
peak = next(int(line.split()[1]) / 1000 for line in status if line.startswith("VmHWM"))
print(json.dumps({"seconds": time.perf_counter() - start, "peak_MB": peak, "mAP": result.mAP}))
"""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gallery.npy"
        rows = np.lib.format.open_memmap(path, "w+", np.float32, (1_000_000, 512))
        rng = np.random.default_rng(0)
        for start in track(range(0, len(rows), 20_000), "Writing 2 GB", transient=True):
            rows[start : start + 20_000] = rng.standard_normal((20_000, 512), np.float32)
        rows.flush()
        del rows
        command = [sys.executable, "-c", script, str(path)]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    console.print(f"1,000 x 1,000,000 x 512: {row['seconds']:.1f} s, peak {row['peak_MB']:.0f} MB in all")
    return row


def machine() -> dict[str, str | int]:
    """Return processor, cores and versions of this measurement."""
    from san_tf.resources import core_count

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "numba", "san-tf")}
    return {"cpu": cpu, "cores": core_count(), "python": platform.python_version(), **versions}


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--peers", type=Path, help="folder that holds torchreid/ and fast-reid/")
    parser.add_argument("--queries", type=int, default=3368)
    parser.add_argument("--images", type=int, default=15913, help="gallery images")
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--quick", action="store_true", help="skip contestants that take a minute or more")
    parser.add_argument("--growth", action="store_true", help="re-rank growing numbers of images, and plot")
    parser.add_argument("--msmt17", action="store_true", help="also re-rank 11,659 x 82,161 x 2,048")
    parser.add_argument("--million", action="store_true", help="also rank a gallery of 1,000,000 on disk")
    arguments = parser.parse_args()
    console, peers = Console(width=110), arguments.peers
    problem = Problem(arguments.queries, arguments.images, arguments.dimensions)
    size = f"{problem.queries:,} x {problem.images:,} x {problem.dimensions}"
    target = RESULTS / "evaluation.json"
    results = json.loads(target.read_text()) if target.exists() else {}
    results["machine"] = machine()
    for title, names in (("ranking", RANKING), ("re-ranking", RERANKING)):
        if arguments.quick:
            names = tuple(name for name in names if name not in ONCE)
        rows = contest(names, problem, peers, arguments.rounds, console)
        show(rows, f"{title}, {size}", console)
        results[title] = {"size": size, "rows": rows}
    if arguments.growth:
        results["growth"] = {"dimensions": problem.dimensions, "rows": grow(problem.dimensions, console)}
        plot(results["growth"]["rows"], problem.dimensions)
    if arguments.msmt17:
        large = Problem(11_659, 82_161, 2048, people=3060)
        rows = contest((RERANKING[0], RERANKING[1]), large, None, 1, console)
        show(rows, "re-ranking, 11,659 x 82,161 x 2,048", console)
        results["msmt17"] = {"size": "11,659 x 82,161 x 2,048", "rows": rows}
    if arguments.million:
        results["million"] = million(console)
    write_results("evaluation", results)


if __name__ == "__main__":
    main()
