"""Networks: the encoder SA-Enc, the decoder SA-Dec, SAN and SANPG that train them, and presets."""

from san_tf.models.backbones import BACKBONES
from san_tf.models.decoder import build_decoder
from san_tf.models.encoder import build_encoder
from san_tf.models.san import SAN, SANPG, LossWeights

__all__ = ["BACKBONES", "SAN", "SANPG", "LossWeights", "build_decoder", "build_encoder"]
