"""Evaluation of embeddings: rankings by the field's protocols, verification and calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from san_tf.lazy_names import lazy_names

if TYPE_CHECKING:
    from san_tf.evaluation.calibration import Calibration
    from san_tf.evaluation.calibration_fit import fit_pairs
    from san_tf.evaluation.feature_files import read_features
    from san_tf.evaluation.feature_set import FeatureSet
    from san_tf.evaluation.identity_f1 import identity_scores
    from san_tf.evaluation.protocols import PROTOCOLS, ProtocolResult, evaluate_protocol
    from san_tf.evaluation.reranking import rerank
    from san_tf.evaluation.roc import roc_curve
    from san_tf.evaluation.significance import compare, confidence_intervals

__all__ = [
    "PROTOCOLS",
    "Calibration",
    "FeatureSet",
    "ProtocolResult",
    "compare",
    "confidence_intervals",
    "evaluate_protocol",
    "fit_pairs",
    "identity_scores",
    "read_features",
    "rerank",
    "roc_curve",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "identity_scores": "identity_f1",
        "PROTOCOLS": "protocols",
        "Calibration": "calibration",
        "FeatureSet": "feature_set",
        "ProtocolResult": "protocols",
        "compare": "significance",
        "confidence_intervals": "significance",
        "evaluate_protocol": "protocols",
        "fit_pairs": "calibration_fit",
        "read_features": "feature_files",
        "rerank": "reranking",
        "roc_curve": "roc",
    },
)
