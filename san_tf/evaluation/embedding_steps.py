"""What happens to embeddings between the encoder and the ranking, in its one order."""

from __future__ import annotations

import numpy as np

from san_tf.evaluation.camera_bias import without_camera_bias
from san_tf.evaluation.distances import feature_rows, l2_normalized
from san_tf.evaluation.expansion import augment_database, expand_queries
from san_tf.evaluation.feature_set import FeatureSet
from san_tf.evaluation.options import Preparation


def prepared(
    query: FeatureSet, gallery: FeatureSet, preparation: Preparation
) -> tuple[FeatureSet, FeatureSet]:
    """Return query and gallery as they are to be ranked.

    Expanded embeddings have length 1, so whoever expands one side only has the other scaled as well. Where
    nothing is asked for, the sets come back as they are, memory maps included; else they are copied.

    Raises:
        UserError: a value that makes no sense, or features that do not fit or are not finite.

    Example:
        >>> query, gallery = prepared(query, gallery, Preparation(normalize=True, query_expansion=5))
    """
    preparation.check()
    if preparation == Preparation():
        return query, gallery
    # Before one bad row can spoil the mean of its camera, or an expansion, and another be named for it.
    for side in feature_rows(query.features, gallery.features, "euclidean"):
        for start in range(0, len(side), side.rows_a_block):
            side.block(start, min(start + side.rows_a_block, len(side)))
    if preparation.camera_bias_removal:
        if preparation.normalize:
            query, gallery = _unit(query), _unit(gallery)
        query, gallery = without_camera_bias([query, gallery])
    if preparation.normalize or preparation.database_augmentation or preparation.query_expansion:
        query, gallery = _unit(query), _unit(gallery)
    if preparation.database_augmentation:
        gallery = gallery.with_features(
            augment_database(gallery.features, preparation.database_augmentation, preparation.alpha)
        )
    if preparation.query_expansion:
        query = query.with_features(
            expand_queries(query.features, gallery.features, preparation.query_expansion, preparation.alpha)
        )
    return query, gallery


def _unit(item: FeatureSet) -> FeatureSet:
    dtype = np.float64 if item.features.dtype == np.float64 else np.float32
    return item.with_features(l2_normalized(item.features.astype(dtype, copy=False)))
