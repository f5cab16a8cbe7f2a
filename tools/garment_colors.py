"""Compares the colours of painted clothes with those of their photographs.

The true texture of a person in a photograph is unknown, but the colour of the shirt is visible. The tool
takes hand-drawn boxes on the upper and the lower garment. It compares the median colour in each box with the
median colour painted on torso or thighs, as a distance in CIELAB: about 2 is just visible, 100 is black on
white.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from san_tf.atomic import atomic_file
from san_tf.command_line import Parser, printable, run_as_command
from san_tf.errors import UserError
from san_tf.evaluation.texture_scores import lab_distance
from san_tf.experiments.recipe_files import read_yaml, shown
from san_tf.synthesis.garment_regions import GARMENTS, garment_region

# Distances in CIELAB within which boxes are counted.
LIMITS = (10, 15, 20)
Boxes = Mapping[str, Mapping[str, Sequence[int]]]


def color_error(image: np.ndarray, box: Sequence[int], texture: np.ndarray, garment: str) -> float:
    """Return the CIELAB distance of a garment's median colours in photograph and texture.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        box: top, bottom, left, right in pixels; bottom and right are exclusive.
        texture: `(T, T, 3)` uint8 RGB.
        garment: "upper" or "lower".

    Raises:
        UserError: the box has no pixel, or reaches beyond the image.
    """
    top, bottom, left, right = box
    height, width = image.shape[:2]
    if not (0 <= top < bottom <= height and 0 <= left < right <= width):
        raise UserError(
            f"The box {list(box)} does not fit an image of {height} x {width} pixels; give top, bottom, left,"
            " right in pixels of the image as stored."
        )
    seen = np.median(image[top:bottom, left:right].reshape(-1, 3), axis=0)
    painted = np.median(texture[garment_region(garment, len(texture))], axis=0)
    return float(lab_distance(seen, painted))


def measure(boxes: Boxes, images: Path, textures: Path) -> dict[str, Any]:
    """Measure the colour error of every box.

    Args:
        boxes: file name of a photograph -> garment -> box.
        images: folder of the photographs.
        textures: folder of the textures painted from them, with the same file stems.

    Returns:
        `errors` by file and garment; `mean` by garment and over all; `within`, the number of boxes within
        each limit; `boxes`, the number of all boxes.

    Raises:
        UserError: a file is missing or is not an image, or a box does not fit.
    """
    errors: dict[str, dict[str, float]] = {}
    for name, by_garment in boxes.items():
        texture = _read(next(iter(sorted(textures.glob(f"{Path(name).stem}.*"))), textures / name))
        image = _read(images / name)
        errors[name] = {
            garment: color_error(image, box, texture, garment) for garment, box in by_garment.items()
        }
    every = np.array([value for by_garment in errors.values() for value in by_garment.values()])
    means = {
        garment: float(np.mean([entry[garment] for entry in errors.values() if garment in entry]))
        for garment in GARMENTS
        if any(garment in entry for entry in errors.values())
    }
    return {
        "errors": errors,
        "mean": {**means, "all": float(every.mean())},
        "within": {str(limit): int((every <= limit).sum()) for limit in LIMITS},
        "boxes": len(every),
    }


def read_boxes(path: str | Path) -> Boxes:
    """Read a YAML or JSON file of boxes.

    Its form is `{file name: {upper: [top, bottom, left, right], lower: [...]}}`.

    Raises:
        UserError: the file cannot be read or has another form.
    """
    boxes = read_yaml(path, "file of boxes")
    if not isinstance(boxes, dict) or not boxes:
        raise UserError(
            f"{path} must name photographs, each with boxes: `a.jpg: {{upper: [26, 44, 19, 34]}}`."
        )
    for name, by_garment in boxes.items():
        fits = isinstance(by_garment, dict) and by_garment and set(by_garment) <= set(GARMENTS)
        if not fits or not all(
            isinstance(box, list) and len(box) == 4 and all(type(edge) is int for edge in box)
            for box in by_garment.values()
        ):
            raise UserError(
                f"{path}: {shown(name)} must have boxes of four whole numbers named"
                f" {' or '.join(GARMENTS)}, but has {shown(by_garment)}."
            )
    return {str(name): by_garment for name, by_garment in boxes.items()}


def _read(path: Path) -> np.ndarray:
    if not path.is_file():
        raise UserError(
            f"{path} does not exist; paint the folder with --stage pseudo-textures --images first."
        )
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB) if path.stat().st_size else None
    if image is None:
        raise UserError(f"{path} is not an image that can be read; replace it.")
    return image


def main(argv: Sequence[str] | None = None) -> None:
    """Run the tool; see `--help`."""

    def action() -> None:
        parser = Parser(
            prog="python tools/garment_colors.py",
            description=__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument(
            "--boxes", required=True, metavar="FILE", help="YAML or JSON of boxes by file name"
        )
        parser.add_argument("--images", required=True, metavar="DIR", help="folder of the photographs")
        parser.add_argument(
            "--textures", required=True, metavar="DIR", help="painted textures: <workdir>/painted/<folder>"
        )
        parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
        arguments = parser.parse_args(argv)
        result = measure(read_boxes(arguments.boxes), Path(arguments.images), Path(arguments.textures))
        for name, by_garment in result["errors"].items():
            values = (f"{garment} {error:.1f}" for garment, error in by_garment.items())
            print(printable(f"{name}  " + "  ".join(values)))
        means = (f"{garment} {error:.1f}" for garment, error in result["mean"].items())
        print(printable("mean  " + "  ".join(means)))
        counts = "  ".join(f"{limit}: {count}" for limit, count in result["within"].items())
        print(printable(f"within  {counts}  of {result['boxes']}"))
        if arguments.json:
            with atomic_file(arguments.json) as temporary:
                temporary.write_text(json.dumps(result, indent=2) + "\n")

    run_as_command(action)


if __name__ == "__main__":
    main()
