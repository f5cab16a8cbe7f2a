"""Adaptation: an encoder learns from crops of one's own cameras, without identities."""

from __future__ import annotations

from typing import TYPE_CHECKING

from san_tf.lazy_names import lazy_names

if TYPE_CHECKING:
    from san_tf.adaptation.clustering import Answers, Clustering, ClusterSettings, camera_centred, cluster
    from san_tf.adaptation.contrast import ClusterContrast, cluster_loss
    from san_tf.adaptation.norms import fit_norms
    from san_tf.adaptation.proposals import PairChooser, Proposal, propose_pairs
    from san_tf.adaptation.rounds import AdaptationResult, AdaptationSettings, adapt
    from san_tf.adaptation.start_encoder import trainable_encoder

__all__ = [
    "AdaptationResult",
    "AdaptationSettings",
    "Answers",
    "ClusterContrast",
    "ClusterSettings",
    "Clustering",
    "PairChooser",
    "Proposal",
    "adapt",
    "camera_centred",
    "cluster",
    "cluster_loss",
    "fit_norms",
    "propose_pairs",
    "trainable_encoder",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "AdaptationResult": "rounds",
        "AdaptationSettings": "rounds",
        "Answers": "clustering",
        "ClusterContrast": "contrast",
        "ClusterSettings": "clustering",
        "Clustering": "clustering",
        "PairChooser": "proposals",
        "Proposal": "proposals",
        "adapt": "rounds",
        "camera_centred": "clustering",
        "cluster": "clustering",
        "cluster_loss": "contrast",
        "fit_norms": "norms",
        "propose_pairs": "proposals",
        "trainable_encoder": "start_encoder",
    },
)
