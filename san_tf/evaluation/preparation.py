"""What happens to embeddings between the encoder and the ranking, in its one order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from san_tf.evaluation.camera_bias import without_camera_bias
from san_tf.evaluation.distances import l2_normalized
from san_tf.evaluation.expansion import augment_database, expand_queries
from san_tf.evaluation.feature_set import FeatureSet


@dataclass(frozen=True)
class Preparation:
    """Options of the field, in the order in which they are applied; the defaults change nothing.

    Attributes:
        normalize: scale embeddings to length 1.
        camera_bias: subtract each camera's mean, see `without_camera_bias`.
        augmentation: nearest gallery images added to each gallery image, see `augment_database`; 0 for none.
        expansion: nearest gallery images added to each query, see `expand_queries`; 0 for none.
        alpha: exponent of the similarity in both; 0 for plain averages.
    """

    normalize: bool = False
    camera_bias: bool = False
    augmentation: int = 0
    expansion: int = 0
    alpha: float = 3.0

    def apply(self, query: FeatureSet, gallery: FeatureSet) -> tuple[FeatureSet, FeatureSet]:
        """Return query and gallery as they are to be ranked.

        Expanded embeddings have length 1, so whoever expands one side only has the other scaled as well.

        Raises:
            UserError: a value that makes no sense.

        Example:
            >>> query, gallery = Preparation(normalize=True, expansion=5).apply(query, gallery)
        """
        expands = self.augmentation > 0 or self.expansion > 0
        if self.camera_bias:
            if self.normalize:
                query, gallery = _unit(query), _unit(gallery)
            query, gallery = without_camera_bias([query, gallery])
        if self.normalize or expands:
            query, gallery = _unit(query), _unit(gallery)
        if self.augmentation:
            gallery = _with(gallery, augment_database(gallery.features, self.augmentation, self.alpha))
        if self.expansion:
            query = _with(query, expand_queries(query.features, gallery.features, self.expansion, self.alpha))
        return query, gallery


def _with(item: FeatureSet, features: np.ndarray) -> FeatureSet:
    return FeatureSet(features, item.pids, item.camids)


def _unit(item: FeatureSet) -> FeatureSet:
    dtype = np.float64 if item.features.dtype == np.float64 else np.float32
    return _with(item, l2_normalized(item.features.astype(dtype, copy=False)))
