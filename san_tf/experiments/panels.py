"""Images for TensorBoard: textures and ranked lists of a few images during training."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from san_tf.data.pipeline import inference_dataset
from san_tf.data.records import Records
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.features import Features
from san_tf.experiments.painting import true_textures
from san_tf.normalization import texture_to_uint8
from san_tf.visualization.ranked_list_sheet import ranked_lists
from san_tf.visualization.texture_panels import texture_panels

_TEXTURES, _QUERIES, _IDENTITIES, _IMAGES, _RANKS = 8, 4, 16, 4, 8


class Panels(keras.callbacks.Callback):
    """Writes the images `textures` and `ranked_lists` for TensorBoard after some epochs of a training.

    Both show the same people each time, so that TensorBoard's slider shows the progress. The ranked lists
    have only a few identities and do not indicate the scores. A model without embedding gets no ranked lists,
    one without decoder no textures.

    Args:
        experiment: experiment with recipe, run and options.
        model: model in training: SAN, its baseline or SANPG.
        records: images to choose from, with their true textures if there are any.
        stage: name of the TensorBoard run.
        epochs: number of epochs of the training.
    """

    def __init__(
        self, experiment: Experiment, model: keras.Model, records: Records, stage: str, epochs: int
    ) -> None:
        super().__init__()
        self.size = experiment.recipe.data.image_size
        self.texture_size = experiment.recipe.texture_size
        self.folder = experiment.run.tensorboard(stage)
        self.epochs = epochs
        self.every = max(1, round(epochs / max(1, experiment.options.panels)))
        self.wanted = experiment.options.panels > 0
        self.painted = self.queries = self.gallery = None
        if model.decoder is not None:
            with_texture = np.flatnonzero(records.texture_index >= 0)
            self.painted = records.select(with_texture[_spread(len(with_texture), _TEXTURES)])
        if isinstance(model.encoder.output, dict):
            self.queries, self.gallery = _few(records)
        outputs = experiment.distribution.alone(lambda images: model(images, training=False))
        self._outputs = tf.function(outputs, reduce_retracing=True)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the images if they are due; they always are after the first epoch, for comparison."""
        if not self.wanted or (epoch and (epoch + 1) % self.every and epoch + 1 < self.epochs):
            return
        figures: dict[str, Figure] = {}
        if self.painted is not None and len(self.painted):
            figures["textures"] = self._textures(self.painted)
        if self.queries is not None and self.gallery is not None and len(self.queries):
            figures["ranked_lists"] = self._ranked_lists(self.queries, self.gallery)
        # A new file each time: one that stays open would be half written if the process is killed.
        writer = tf.summary.create_file_writer(str(self.folder), filename_suffix=f".panels{epoch + 1}")
        with writer.as_default(step=epoch + 1):
            for name, figure in figures.items():
                tf.summary.image(name, _pixels(figure)[None])
        writer.close()

    def _of(self, records: Records, output: str) -> np.ndarray:
        batches = inference_dataset(records, self.size, 16)
        return np.concatenate([self._outputs(images)[output].numpy() for images in batches])

    def _textures(self, records: Records) -> Figure:
        painted = texture_to_uint8(self._of(records, "texture"))
        true = true_textures(records, painted.shape[1])
        return texture_panels(self._pictures(records), painted, true)

    def _ranked_lists(self, queries: Records, gallery: Records) -> Figure:
        features = [self._of(records, "embedding") for records in (queries, gallery)]
        top = Features.of(queries, features[0], gallery, features[1]).top(_RANKS)
        found = [list(self._pictures(gallery.select(indices))) for indices in top.indices]
        return ranked_lists(list(self._pictures(queries)), found, top.correct)

    def _pictures(self, records: Records) -> np.ndarray:
        batches = inference_dataset(records, self.size, normalized=False)
        return np.concatenate([batch.numpy() for batch in batches])


def _few(records: Records) -> tuple[Records, Records]:
    """Select queries of a few identities, and a gallery of some images of those and of others."""
    counts = {pid: np.flatnonzero(records.pids == pid) for pid in records.identities}
    several = [pid for pid, rows in counts.items() if len(rows) > 1]
    people = [several[index] for index in _spread(len(several), _IDENTITIES)]
    rows = [counts[pid][_spread(len(counts[pid]), _IMAGES + 1)] for pid in people]
    queries = np.array([found[0] for found in rows[:_QUERIES]], int)
    gallery = np.concatenate([found[1:] for found in rows]) if rows else queries
    return records.select(queries), records.select(gallery)


def _spread(count: int, wanted: int) -> np.ndarray:
    return np.linspace(0, count - 1, min(wanted, count)).round().astype(int)


def _pixels(figure: Figure) -> np.ndarray:
    """Render a figure as (H, W, 3) uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
