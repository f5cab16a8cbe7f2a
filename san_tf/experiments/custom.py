"""Your own images with the paper's recipe: any folder or archive of crops of people.

Command: python -m san_tf.experiments.custom --data_dir DATA --folder IMAGES
  IMAGES gives split, identity and camera of each image in one of four ways:
  names like train/0002_c1_x.jpg, query/..., gallery/... (--dataset custom/names, the default);
  one folder per identity, train/anna/1.jpg (custom/folders);
  a file images.csv with the columns path, identity and, where known, camera and split (custom/table);
  your own --pattern for paths, such as "(?P<split>[a-z]+)/(?P<identity>[a-z]+)-cam(?P<camera>[0-9]+)-.*".
  An image without camera gets a camera id of its own. Gallery images of the same moment then count as
  matches, so scores are higher than with cameras; the run says so.
Data: yours: train, query and gallery, with at least as many training identities as --identities_per_batch.
Expected: unknown for your data. First look at the rows `untrained` and `colour histogram`: a method that does
  not beat them has learnt nothing.
Cost: SAN and its baseline, 320 epochs. Two CPU cores ran a training step of the public code at 0.9 images/s;
  the time on a GPU was not measured. For a few hundred people use --config photographs, a small network
  without decoder that knows rendered people already. On 443 real people it took 7 minutes of one CPU core; it
  ranked 100 others at 52.5 % rank-1 and 51.1 % mAP (a colour histogram: 6.5 and 6.9).
"""

from __future__ import annotations

from collections.abc import Sequence

from san_tf.experiments.experiment import WITH_TEXTURES
from san_tf.experiments.recipe import DataRecipe, ModelRecipe, Recipe
from san_tf.experiments.runner import main as run_experiment

RECIPE = Recipe(
    data=DataRecipe(dataset="custom/names", pit="pit/paper"), model=ModelRecipe(weights="imagenet")
)
STAGES = WITH_TEXTURES


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiment; see `--help`."""
    run_experiment("custom", __doc__ or "", RECIPE, STAGES, argv)


if __name__ == "__main__":
    main()
