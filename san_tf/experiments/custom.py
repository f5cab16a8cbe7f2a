"""Your own images by the paper's recipe: any folder or archive of crops of people.

Command: python -m san_tf.experiments.custom --data_dir DATA --folder IMAGES
  Names like train/0002_c1_x.jpg, query/..., gallery/... tell split, identity and camera (--dataset
  custom/names, the default); or a folder an identity, train/anna/1.jpg (custom/folders); or a file images.csv
  in there with the columns path, identity and, where known, camera and split (custom/table); or whatever
  --pattern says of the paths, such as "(?P<split>[a-z]+)/(?P<identity>[a-z]+)-cam(?P<camera>[0-9]+)-.*".
  Images of no known camera are ranked as of a camera of their own: pictures of the same moment then count,
  and scores come out higher than they would with cameras; the run says so.
Data: yours; train, query and gallery, and at least as many training identities as --identities_per_batch.
Expected: nothing is known of your data. Look at the rows `untrained` and `colour histogram` first: what does
  not beat them has learnt nothing.
Cost: SAN and its baseline, 320 epochs. Two CPU cores ran a training step of the public code at 0.9 images/s;
  not measured here on a GPU. For a few hundred people take --config photographs, a small network without the
  decoder. On 443 real people it took 37 minutes of two busy CPU cores, and ranked 100 others at 36.5 % rank-1
  and 38.1 % mAP (a colour histogram: 6.5 and 6.9).
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
