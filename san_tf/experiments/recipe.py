"""Recipe of an experiment: every value that decides its result, as frozen dataclasses.

The fields are the command line's flags and the keys of a recipe file. Values that do not change the result,
such as output folders, are in `san_tf.experiments.flags.Options` instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from san_tf.evaluation.options import Preparation, Ranking

# Values of `weights` that name weights, not a file.
NAMED_WEIGHTS = ("imagenet", "painting", "people", "people_scratch")


@dataclass(frozen=True)
class DataRecipe:
    """Training data, and how batches are made."""

    dataset: str = "synthetic_reid/tiny"
    """Re-ID data set: name of a builder in `datasets/`, with `/config` if it has several."""
    train: tuple[str, ...] = ()
    """Data sets to train on instead, joined as one; identities and cameras of different sets are distinct."""
    validation_identities: int = 0
    """Training identities to hold out, for choosing settings; see `on`."""
    skip_corrupt: bool = False
    """List damaged images of a benchmark and leave them out; without it, the first one stops `prepare`."""
    check_counts: bool = True
    """Check a benchmark's numbers of images against the published ones; `false` for a part of it, or for your
    own images in its layout."""
    folder: str | None = None
    """Data set `custom`: the folder or archive of your images."""
    pattern: str | None = None
    """Data set `custom`: regular expression for the images' whole paths in the folder, with the group
    `identity` and, where known, `camera` and `split`; none uses the naming of the data set's config."""
    pit: str = "pit/tiny"
    """Paired image-texture data set that trains the texture generator."""
    backgrounds: str | None = None
    """Folder of photographs as backgrounds of rendered people; none uses procedural streets."""
    image_size: tuple[int, int] = (256, 128)
    """Height and width of the network's input in pixels, multiples of 32. A decoder needs a height of twice
    the width; its textures are height x height."""
    identities_per_batch: int = 16
    """P of the P x K batch."""
    images_per_identity: int = 4
    """K of the P x K batch."""
    pit_per_batch: int = 16
    """Image-texture pairs with true textures added to each P x K batch."""
    pit_in_norms: bool = False
    """Whether the pairs count in the batch norms' statistics. Without it, they are normalised by the moving
    statistics of the re-ID images."""
    translation: float = 0.5
    """Probability of enlarging an image 1.125 times and cropping it back at a random place."""
    flip: float = 0.5
    """Probability of mirroring an image together with its texture."""
    erasing: float = 0.5
    """Probability of erasing a random rectangle of 2 to 40 percent of an image."""
    jitter: float = 0.0
    """Probability of changing an image's brightness, contrast, saturation and hue, as cameras differ."""
    jitter_strength: float = 1.0
    """Factor on the ranges of `jitter`: 1 is 25 percent of brightness, contrast and saturation."""
    blur: float = 0.0
    """Probability of blurring an image like a camera out of focus."""
    jpeg: float = 0.0
    """Probability of compressing an image as JPEG of quality 10 to 75."""
    low_resolution: float = 0.0
    """Probability of shrinking an image to 25 to 100 percent and enlarging it again."""
    amplitude_mix: float = 0.0
    """Probability of mixing an image's Fourier amplitudes, its style, with those of another of the batch; its
    phases, the shapes, stay (FACT)."""
    grayscale: float = 0.0
    """Probability of turning an image grey; its texture stays coloured."""
    auto_augment: float = 0.0
    """Probability of two operations of AutoAugment's policy of ImageNet, such as equalising or rotating an
    image; its texture stays as it is. fast-reid has 0.1."""


@dataclass(frozen=True)
class ModelRecipe:
    """The encoder SA-Enc, the decoder SA-Dec and their precision."""

    backbone: str = "resnet50"
    """Network that computes the features: one of `san_tf.models.backbones` (resnet50, resnet101, thin_resnet,
    efficientnet_lite0 and others) or `keras:` and a name of keras.applications (keras:EfficientNetV2B0)."""
    head: Literal["plain", "fc512", "bnneck"] = "plain"
    """`plain`: the pooled feature map is the embedding; `fc512`: followed by Linear, batch norm and ReLU;
    `bnneck`: followed by a batch norm, before which the triplet loss acts."""
    pooling: Literal["avg", "gem"] = "avg"
    """How the last feature map becomes the feature: `avg`, the mean of each channel; `gem`, the generalized
    mean, whose exponent is learnt and starts at 3."""
    classifier: Literal["linear", "arcface", "cosface"] = "linear"
    """What tells the training identities apart: `linear`, or cosines with a margin, by `arcface` or
    `cosface`; the label smoothing stays."""
    classifier_scale: float | None = None
    """Of arcface and cosface: the factor s of the cosines; none is the papers' 64. Few identities want
    less."""
    classifier_margin: float | None = None
    """Of arcface and cosface: the margin m; none is the papers', 0.5 (radians) and 0.35."""
    mixstyle: float = 0.0
    """Probability of mixing the styles of a batch's images (MixStyle) behind the backbone's first two stages,
    in training alone, for encoders that meet cameras they were not trained on. The paper has 0.5."""
    last_stride: Literal[1, 2] = 1
    """Stride of the backbone's last stage; 1 doubles the feature map."""
    stride_on: Literal["1x1", "3x3"] = "1x1"
    """Convolution that carries the stride in a ResNet's blocks: `3x3` for weights from PyTorch."""
    pool_padding: Literal["both", "end"] = "both"
    """Sides on which a ResNet's first pooling is padded: `end` for weights of fast-reid."""
    skips: bool = False
    """Feed the encoder's earlier stages to the decoder (U-shaped), as in the public code."""
    sketch: int = 0
    """Hidden units of a fully connected branch in the decoder that sketches the texture; 0 for none."""
    palette: int = 0
    """Number of colours that the decoder takes from the image to mix textures; 0 predicts colours freely."""
    decoder: Literal["paper", "light"] | None = None
    """Size of the decoder, see `san_tf.models.presets`; none takes the one that fits the backbone."""
    weights: str | None = None
    """`imagenet`; `painting` for thin_resnet, whose backbone learnt to paint rendered people and comes along;
    `people` for efficientnet_lite0 and `people_scratch` for thin_resnet, both with head bnneck, the trained
    encoders that come along; a Keras `.weights.h5` file of the backbone; another run's
    `weights/*_encoder.weights.h5` to continue from with other identities (without its classifier); or none
    for random weights."""
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16", "auto"] = "float32"
    """Precision of the layers; weights and losses stay float32. `auto`: 16 bits on a GPU that supports them,
    float32 on a CPU."""
    jit_compile: bool = False
    """Compile the training step with XLA."""
    synchronized_batch_norm: bool = False
    """With `--strategy`: batch norms use the statistics of the whole batch, as on one device, instead of each
    device's part. Slower, because every batch norm communicates with all devices."""


@dataclass(frozen=True)
class LossRecipe:
    """Weights and margins of the four losses (paper, equation of the total loss)."""

    lambda_identity: float = 0.5
    """Weight of the identity loss, cross entropy with label smoothing."""
    lambda_triplet: float = 1.5
    """Weight of the triplet loss on the embedding."""
    triplet: str = "batch-hard"
    """Triplet loss: `batch-hard`, `soft-margin` (batch-hard without a margin), `circle` (circle loss, up to
    a hundred times larger), or from TensorFlow Addons `tfa.TripletHardLoss` or
    `tfa.TripletSemiHardLoss`."""
    circle_margin: float = 0.25
    """Of the circle loss: the margin m of cosines."""
    circle_scale: float = 128.0
    """Of the circle loss: the scale gamma."""
    triplet_warmup_epochs: float = 0.0
    """Epochs in which the weight of the triplet loss rises from 0, to prevent collapsed embeddings."""
    lambda_reconstruction: float = 1.0
    """Weight of the texture reconstruction loss."""
    lambda_texture_triplet: float = 1.0
    """Weight of the triplet constraints on the decoder's feature maps."""
    lambda_centre: float = 0.0
    """Weight of the centre loss, half the squared distance of embeddings to the centres of their identities;
    0 has none. Bag of Tricks has 5e-4."""
    centre_rate: float = 0.5
    """Of the centre loss: how far the centres follow each batch."""
    margin: float = 0.3
    """Margin of both triplet losses."""
    smoothing: float = 0.1
    """Label smoothing of the identity loss."""


@dataclass(frozen=True)
class TrainingRecipe:
    """Method, optimiser and schedule of the training."""

    method: Literal["both", "san", "baseline"] = "both"
    """What to train: `san`; `baseline`, the same encoder without decoder, which needs no textures; or `both`,
    to compare them. If both weights of the decoder's losses are 0, `both` trains the baseline only."""
    optimizer: str = "adam"
    """`adam`, `sgd` (momentum 0.9), or one of TensorFlow Addons, such as `tfa.LAMB`, whose weight decay is
    always `decoupled`."""
    epochs: int = 320
    """Passes over the training identities, warm-up included."""
    start: Literal["weights", "texture-generator"] = "weights"
    """Initial weights of the networks: `weights`, those of the model; `texture-generator`, encoder and
    decoder of the trained texture generator. The generator has seen no identity, so the baseline starts from
    it, too."""
    steps_per_epoch: int = 0
    """Steps per epoch; 0 for as many as show each image about once."""
    schedule: Literal["steps", "cosine", "milestones"] = "steps"
    """`steps`: exponential warm-up, then halved every 40 epochs; `cosine`: linear warm-up, cosine to zero;
    `milestones`: linear warm-up, then times `milestone_factor` at each of `milestones`."""
    milestones: tuple[int, ...] = (40, 70)
    """Schedule `milestones`: epochs, counted from the start, at which the rate falls."""
    milestone_factor: float = 0.1
    """Schedule `milestones`: factor of the rate at each milestone."""
    warmup_epochs: float = 20.0
    """Length of the warm-up in epochs."""
    learning_rate: float = 8e-4
    """Highest learning rate."""
    weight_decay: float = 5e-4
    """Weight decay of all kernels."""
    decay: Literal["l2", "decoupled"] = "l2"
    """`l2`: added to the gradient, as in the public code; `decoupled`: subtracted from weights (AdamW)."""
    validate_every: int = 0
    """Epochs between measurements of mAP on the identities held out by `validation_identities`; the weights
    with the highest mAP are kept. 0 measures nothing and keeps the last weights."""
    patience: int = 0
    """Stop early after this many measurements without a higher mAP; 0 trains all epochs."""
    accumulation: int = 1
    """Batches whose gradients are averaged per update of the weights; batch norms and triplets use each batch
    separately."""
    clip_norm: float = 0.0
    """Largest norm of all gradients together; larger ones are scaled down to it. 0 leaves them alone."""
    freeze_epochs: int = 0
    """Epochs at the start in which the backbone stays as it is, its batch norms too, while head, classifier
    and decoder learn; they count among `epochs`. For a backbone that starts from trained weights."""
    ema: float = 0.0
    """Decay of the weights' moving average at each step, such as 0.999; the average is then evaluated and
    exported. 0 for none."""


@dataclass(frozen=True)
class GeneratorRecipe:
    """SAN-PG, the texture generator that paints pseudo textures."""

    generator_epochs: int = 60
    """Passes over the paired data."""
    generator_batch: int = 64
    """Pairs per batch."""
    pseudo_textures: Literal["image", "identity"] = "image"
    """Target texture of an image: `image`, its own, as in the paper; `identity`, the mean over all images of
    its identity."""
    texture_colors: Literal["true", "photographed"] = "true"
    """Colours that the generator learns to paint. `true`: those of the clothes, without the effect of light
    and camera. `photographed`: those in the image, the only ones that a palette can give."""
    generator_learning_rate: float = 1e-3
    """Highest learning rate of its cosine schedule."""
    generator_weights: str | None = None
    """Weights of a trained generator: `texture_generator.weights.h5` of another run with the same networks,
    or a PyTorch checkpoint of the public SAN code, which is converted (with `--texture_layout other`)."""
    textures: str | None = None
    """Folder of ready textures instead, named after their images, as the paper's authors publish them (with
    `--texture_layout other`)."""
    texture_layout: Literal["san_tf", "other"] = "san_tf"
    """UV layout of the textures. With `other`, such as SMPL's, textures are not mirrored with their images,
    because their left and right are unknown, and batches cannot contain pairs of this package's layout."""


@dataclass(frozen=True)
class EvaluationRecipe(Ranking, Preparation):
    """Test data and measures: those below, and those of the evaluation command."""

    on: Literal["test", "validation"] = "test"
    """`validation` tests on the identities held out by `validation_identities` instead of the test sets. Use
    it to choose settings, since test scores must not choose them."""
    test: tuple[str, ...] = ()
    """Data sets to test on instead of the experiment's own; each gets its own rows in the results."""
    test_folder: str | None = None
    """Data set `custom`: folder or archive to test on instead of `folder`. In a trained run, `--stage prepare
    evaluate --folder` sets this value."""
    test_pattern: str | None = None
    """`pattern` for the test sets; none reads names as in training."""
    test_backgrounds: str | None = None
    """`backgrounds` for rendered test sets; none takes the value of training."""
    test_skip_corrupt: bool | None = None
    """`skip_corrupt` for the test sets; none takes the value of training."""
    test_check_counts: bool | None = None
    """`check_counts` for the test sets; none takes the value of training."""
    protocol: Literal["own", "market", "cuhk03", "vehicleid", "cross-camera", "partial"] = "own"
    """Which images count, see `san_tf.evaluation.protocols`; `own` is that of each test set, usually
    `market`."""
    normalize: bool = True
    """Scale embeddings to unit length before comparing them."""
    flip_average: bool = False
    """Use the average of the embeddings of an image and its mirror image."""


@dataclass(frozen=True)
class Recipe:
    """All values that decide an experiment's result.

    Example:
        >>> Recipe(seed=1).data.identities_per_batch
        16
    """

    seed: int = 0
    """Seed of weights, sampling, augmentation and triplets."""
    data: DataRecipe = field(default_factory=DataRecipe)
    model: ModelRecipe = field(default_factory=ModelRecipe)
    losses: LossRecipe = field(default_factory=LossRecipe)
    training: TrainingRecipe = field(default_factory=TrainingRecipe)
    generator: GeneratorRecipe = field(default_factory=GeneratorRecipe)
    evaluation: EvaluationRecipe = field(default_factory=EvaluationRecipe)

    @property
    def texture_size(self) -> int:
        """Side of the square texture in texels: the last stage's height, doubled four times."""
        return self.data.image_size[0] // (1 if self.model.last_stride == 1 else 2)

    @property
    def training_sets(self) -> tuple[str, ...]:
        """Names of the training sets; empty for an experiment that only paints textures."""
        return self.data.train or ((self.data.dataset,) if self.data.dataset else ())

    @property
    def test_sets(self) -> tuple[str, ...]:
        """Names of the test sets."""
        return self.evaluation.test or ((self.data.dataset,) if self.data.dataset else ())

    @property
    def with_decoder(self) -> bool:
        """Whether a decoder is trained: the method has one, and a loss of it has weight."""
        weighs = self.losses.lambda_reconstruction > 0 or self.losses.lambda_texture_triplet > 0
        return weighs and self.training.method != "baseline"

    @property
    def with_generator(self) -> bool:
        """Whether a texture generator is needed: for pseudo textures, initial weights, or by itself."""
        starts = self.training.start == "texture-generator"
        return self.with_decoder or starts or not self.training_sets

    @property
    def needs_pairs(self) -> bool:
        """Whether image-texture pairs are needed: to train the generator, or in SAN's batches."""
        ready = self.generator.textures or self.generator.generator_weights
        return (self.with_generator and not ready) or (self.with_decoder and self.data.pit_per_batch > 0)
