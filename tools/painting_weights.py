"""Writes the backbone of a trained texture generator as weights to start from: `--weights painting`.

    python tools/painting_weights.py RUN saved_models/painting/thin_resnet.weights.h5

RUN is the run directory of `python -m san_tf.experiments.pit`, or of another experiment with the stage
`texture-generator`. Kernels are kept as float16, which halves the file.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import h5py
import keras
import numpy as np

from san_tf.experiments.networks import decoder_of, encoder_of, load_weights
from san_tf.experiments.recipe import Recipe
from san_tf.experiments.recipe_files import read_recipe_file
from san_tf.forms import form_of
from san_tf.models.san import SANPG
from san_tf.models.weights_file import write_record


def _copy(given: h5py.Group, small: h5py.Group) -> None:
    """Copy a group with its parts; kernels become float16."""
    small.attrs.update(given.attrs)
    for name, item in given.items():
        if isinstance(item, h5py.Group):
            _copy(item, small.create_group(name))
            continue
        kernel = item.ndim >= 2
        values = item[()].astype(np.float16) if kernel else item[()]
        small_file = {"compression": "gzip", "shuffle": True} if kernel else {}
        copy = small.create_dataset(name, data=values, **small_file)
        copy.attrs.update(item.attrs)


def main() -> None:
    """Run the tool; see the module's text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run directory with weights/texture_generator.weights.h5")
    parser.add_argument("out", type=Path, help="file to write, named as its backbone: NAME.weights.h5")
    options = parser.parse_args()
    recipe = read_recipe_file(str(options.run / "recipe.yaml"), Recipe())
    encoder = encoder_of(recipe, 1, weights=False)
    generator = SANPG(encoder, decoder_of(recipe, encoder))
    load_weights(generator, options.run / "weights" / "texture_generator.weights.h5")
    trunk = keras.Model(encoder.input, encoder.output["stages"])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.weights.h5"
        trunk.save_weights(whole)
        with h5py.File(whole) as given, h5py.File(options.out, "w") as small:
            _copy(given, small)
    write_record(options.out, form_of(encoder), trunk=True)


if __name__ == "__main__":
    main()
