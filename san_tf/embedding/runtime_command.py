"""Convert an export to LiteRT, ONNX and OpenVINO.

Example: `san-tf export-runtime saved_models/market/1 --out runtimes/market`. Each file is compared with the
SavedModel before the folder appears. int8 needs some hundred training images to calibrate its ranges. BoxMOT
loads files of `--form normalized`, Ultralytics loads the ONNX file of `--form unit`.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from san_tf.command_line import Parser, printable, run_as_command
from san_tf.errors import UserError
from san_tf.serving.runtime_sessions import FORMS, SUFFIXES, WEIGHTS
from san_tf.start import import_tensorflow


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="san-tf export-runtime", description=__doc__)
    required: dict[str, Any] = {"required": True, "default": argparse.SUPPRESS}
    parser.add_argument("saved_model", metavar="EXPORT", help="saved_models/market, or one of its versions")
    parser.add_argument("--out", metavar="DIR", help="the folder to write", **required)
    parser.add_argument("--to", nargs="+", choices=[*SUFFIXES], default=[*SUFFIXES], help="target runtimes")
    parser.add_argument(
        "--weights", nargs="+", choices=WEIGHTS, default=["float32"], help="precisions of the weights"
    )
    parser.add_argument(
        "--form", nargs="+", choices=[*FORMS], default=["images"],
        help="inputs: uint8 images of any size; or, for trackers, float32 NCHW of the network's size, "
        "normalized by ImageNet's mean and standard deviation, or unit, 0 to 1",
    )  # fmt: skip
    parser.add_argument(
        "--calibration", nargs="+", metavar="IMAGES", default=[],
        help="training images for int8: folders, .csv, .tar, .zip, image files",
    )  # fmt: skip
    parser.add_argument(
        "--calibrate_on", type=int, default=200, metavar="N", help="calibration images to use, evenly spread"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")
    options: argparse.Namespace = parser.parse_args(argv)
    if options.calibrate_on < 1:
        raise UserError(f"--calibrate_on is {options.calibrate_on}; give a number from 1.")
    return options


def _calibration(places: Sequence[str], count: int) -> list[Any]:
    """Return at most `count` images, evenly spread over all, decoded as in training."""
    from san_tf.embedding.sources import photographs

    found = list(photographs(places))
    chosen = itertools.islice(found[:: max(1, len(found) // count)], count)
    contents = [(photograph.name, photograph.read()) for photograph in chosen]
    import tensorflow as tf

    from san_tf.data.images import decode_image

    images = []
    for name, content in contents:
        try:
            images.append(decode_image(tf.constant(content)).numpy())
        except tf.errors.InvalidArgumentError as error:
            raise UserError(f"{name} cannot be decoded; leave it out of --calibration.") from error
    return images


def _run(options: argparse.Namespace) -> None:
    from san_tf.serving.servable import newest_export

    folder = newest_export(options.saved_model)
    import_tensorflow()
    from san_tf.serving.runtimes import NOTES_FILE, export_runtimes

    images = _calibration(options.calibration, options.calibrate_on) if "int8" in options.weights else []
    out = export_runtimes(
        folder, options.out, options.to, options.weights, images,
        form=options.form, overwrite=options.overwrite,
    )  # fmt: skip
    for name, notes in json.loads((out / NOTES_FILE).read_text())["runtimes"]["files"].items():
        size = sum(file.stat().st_size for file in out.glob(f"{Path(name).stem}.*") if _is_part(file, name))
        told = f"differs from the SavedModel by {notes['difference']:.0e}, cosine {notes['cosine']:.4f}"
        print(printable(f"{out / name} ({size / 1e6:.1f} MB): {told}"))


def _is_part(file: Path, name: str) -> bool:
    """Return whether a file is the model `name`, or its weights for OpenVINO."""
    return file.name == name or (name.endswith(".xml") and file.name == name.removesuffix(".xml") + ".bin")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; see `--help`."""
    run_as_command(lambda: _run(_parse(argv)))


if __name__ == "__main__":
    main()
