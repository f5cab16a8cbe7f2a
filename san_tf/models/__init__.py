"""Networks: the encoder SA-Enc, the decoder SA-Dec, their trainers SAN and SANPG, and presets."""

from san_tf.models.backbones import BACKBONES
from san_tf.models.decoder import build_decoder
from san_tf.models.encoder import build_encoder
from san_tf.models.model_card import ModelCard
from san_tf.models.preset_folder import encoder_from_preset, save_to_preset
from san_tf.models.presets import DECODERS, PRESETS
from san_tf.models.san import SAN, SANPG, LossWeights

__all__ = [
    "BACKBONES",
    "DECODERS",
    "PRESETS",
    "SAN",
    "SANPG",
    "LossWeights",
    "ModelCard",
    "build_decoder",
    "build_encoder",
    "encoder_from_preset",
    "save_to_preset",
]
