"""The recipe of an experiment: every value that decides its result, as frozen dataclasses.

The fields are the command line's flags and the keys of a recipe file. What does not change the result, such
as folders, is not part of a recipe; see `san_tf.experiments.flags.Options`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from san_tf.evaluation.options import Preparation, Ranking


@dataclass(frozen=True)
class DataRecipe:
    """What is trained on, and how batches are made."""

    dataset: str = "synthetic_reid/tiny"
    """The re-ID data set: the name of a builder in `datasets/`, with `/config` where it has several."""
    train: tuple[str, ...] = ()
    """Data sets to train on instead, several joined as one; no two share an identity or a camera."""
    validation_identities: int = 0
    """Training identities that are held out, to choose settings on; see `on`."""
    skip_corrupt: bool = False
    """List damaged images of a benchmark and leave them out; without it, the first one stops `prepare`."""
    check_counts: bool = True
    """Hold a benchmark against its published numbers of images; `false` for a part of it, or your own images
    in its layout."""
    folder: str | None = None
    """Of the data set `custom`: the folder or archive with your images."""
    pattern: str | None = None
    """Of the data set `custom`: a regular expression of the images' whole paths in there, with the group
    `identity` and, where known, `camera` and `split`; without it, the configuration says how names read."""
    pit: str = "pit/tiny"
    """The paired image-texture data set that teaches the texture generator."""
    backgrounds: str | None = None
    """A folder of photographs to render people in front of; procedural streets without it."""
    image_size: tuple[int, int] = (256, 128)
    """Height and width of the network's input in pixels, multiples of 32; with a decoder, whose textures are
    height x height, the height is twice the width."""
    identities_per_batch: int = 16
    """P of the P x K batch."""
    images_per_identity: int = 4
    """K of the P x K batch."""
    pit_per_batch: int = 16
    """Image-texture pairs with true textures added to each P x K batch."""
    pit_in_norms: bool = False
    """Whether the pairs count in the statistics of the batch norms; without, they are normalised by the
    moving statistics, which are of the data set's own images."""
    translation: float = 0.5
    """Probability of enlarging an image 1.125 times and cropping it back at a random place."""
    flip: float = 0.5
    """Probability of mirroring an image, and with it the texture of its person."""
    erasing: float = 0.5
    """Probability of erasing a random rectangle of 2 to 40 percent of an image."""
    jitter: float = 0.0
    """Probability of changing an image's brightness, contrast, saturation and hue, as cameras do."""


@dataclass(frozen=True)
class ModelRecipe:
    """The encoder SA-Enc, the decoder SA-Dec and their arithmetic."""

    backbone: str = "resnet50"
    """Which network makes the features: one of `san_tf.models.backbones` (resnet50, resnet101, thin_resnet,
    efficientnet_lite0 and others) or `keras:` and a name of keras.applications (keras:EfficientNetV2B0)."""
    head: Literal["plain", "fc512", "bnneck"] = "plain"
    """`plain`: the pooled feature map is the embedding; `fc512`: Linear, batch norm and ReLU behind it;
    `bnneck`: a batch norm behind it, in front of which the triplet loss acts."""
    last_stride: Literal[1, 2] = 1
    """Stride of the backbone's last stage; 1 doubles the feature map."""
    stride_on: Literal["1x1", "3x3"] = "1x1"
    """Where a ResNet's blocks have their stride: `3x3` for weights that come from PyTorch."""
    pool_padding: Literal["both", "end"] = "both"
    """Where a ResNet's first pooling is padded: `end` for weights of fast-reid."""
    skips: bool = False
    """Join the encoder's stages into the decoder, U-shaped, as the public code does."""
    sketch: int = 0
    """Hidden units of a fully connected branch in the decoder that sketches the texture; 0 has none."""
    palette: int = 0
    """Colours that the decoder takes from the image and mixes textures of; 0 lets it make colours up."""
    decoder: Literal["paper", "light"] | None = None
    """Size of the decoder, see `san_tf.models.presets`; none takes the one that goes with the backbone."""
    weights: str | None = None
    """`imagenet`, a Keras `.weights.h5` file of the backbone, another run's `weights/*_encoder.weights.h5` to
    go on from with other people (all of it but the classifier), or none for random weights."""
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16", "auto"] = "float32"
    """Arithmetic of the layers; weights and losses stay float32. `auto`: 16 bits on a GPU that has units for
    them, float32 on a CPU."""
    jit_compile: bool = False
    """Compile the training step with XLA."""
    synchronized_batch_norm: bool = False
    """With `--strategy`: batch norms normalise by the whole batch, as one device does, instead of each device
    by its own part of it. Slower, for every batch norm asks all devices."""


@dataclass(frozen=True)
class LossRecipe:
    """The four losses: weights and margins (paper, equation of the total loss)."""

    lambda_identity: float = 0.5
    """Weight of the identity loss, cross entropy with label smoothing."""
    lambda_triplet: float = 1.5
    """Weight of the triplet loss on the embedding."""
    triplet: str = "batch-hard"
    """Which: `batch-hard`, `soft-margin` (batch-hard without a margin), or of TensorFlow Addons
    `tfa.TripletHardLoss` or `tfa.TripletSemiHardLoss`."""
    triplet_warmup_epochs: float = 0.0
    """Epochs over which the weight of the triplet loss rises from 0: identities first, against collapse."""
    lambda_reconstruction: float = 1.0
    """Weight of the texture reconstruction loss."""
    lambda_texture_triplet: float = 1.0
    """Weight of the triplet constraints on the decoder's feature maps."""
    margin: float = 0.3
    """Margin of both triplet losses."""
    smoothing: float = 0.1
    """Label smoothing of the identity loss."""


@dataclass(frozen=True)
class TrainingRecipe:
    """The optimiser and its schedule."""

    method: Literal["both", "san", "baseline"] = "both"
    """What is trained: `san`; `baseline`, the same encoder without the decoder, which needs no textures; or
    `both`, to compare them. Where both of the decoder's losses weigh 0, `both` is the baseline."""
    optimizer: str = "adam"
    """`adam`, `sgd` (momentum 0.9), or one of TensorFlow Addons, such as `tfa.LAMB`, whose weight decay is
    always `decoupled`."""
    epochs: int = 320
    """Passes over the training identities, warm-up included."""
    start: Literal["weights", "texture-generator"] = "weights"
    """What networks start from: `weights`, those of the model; `texture-generator`: encoder and decoder from
    the trained texture generator, which has seen no identity, so the baseline starts from it as well."""
    steps_per_epoch: int = 0
    """Steps an epoch; 0 for as many as show each image about once."""
    schedule: Literal["steps", "cosine", "milestones"] = "steps"
    """`steps`: exponential warm-up, then halved every 40 epochs; `cosine`: linear warm-up, cosine to zero;
    `milestones`: linear warm-up, then times `milestone_factor` at each of `milestones`."""
    milestones: tuple[int, ...] = (40, 70)
    """Of the schedule `milestones`: the epochs, counted from the start, at which the rate falls."""
    milestone_factor: float = 0.1
    """Of the schedule `milestones`: what the rate is multiplied by at each."""
    warmup_epochs: float = 20.0
    """Length of the warm-up in epochs."""
    learning_rate: float = 8e-4
    """Highest learning rate."""
    weight_decay: float = 5e-4
    """Weight decay of all kernels."""
    decay: Literal["l2", "decoupled"] = "l2"
    """`l2`: added to the gradient, as the public code does; `decoupled`: taken off the weights (AdamW)."""
    validate_every: int = 0
    """Epochs between measurements of mAP on the identities that `validation_identities` holds out; the
    weights with the highest are kept. 0 measures nothing and keeps the last weights."""
    patience: int = 0
    """Stop early after so many measurements without a higher mAP; 0 trains all epochs."""
    accumulation: int = 1
    """Batches whose gradients are averaged before the weights move; norms and triplets see each alone."""
    ema: float = 0.0
    """Share of the old average kept each step of the weights' moving average, such as 0.999, which is then
    evaluated and exported; 0 for none."""


@dataclass(frozen=True)
class GeneratorRecipe:
    """SAN-PG, the texture generator that paints the pseudo ground truth."""

    generator_epochs: int = 60
    """Passes over the paired data."""
    generator_batch: int = 64
    """Pairs a batch."""
    pseudo_textures: Literal["image", "identity"] = "image"
    """`image`: each image's own, as in the paper; `identity`: the mean over all images of its identity."""
    texture_colors: Literal["true", "photographed"] = "true"
    """What colours it learns to paint. `true`: the clothes' own, which light and camera change, so that it
    has to see through those. `photographed`: those in the picture, all that a palette can take."""
    generator_learning_rate: float = 1e-3
    """Highest learning rate of its cosine schedule."""
    generator_weights: str | None = None
    """Weights of a trained generator: `texture_generator.weights.h5` of another run with these networks, or a
    PyTorch checkpoint of the public SAN code, converted on the spot (with `--texture_layout other`)."""
    textures: str | None = None
    """A folder of ready textures instead, named after their images, as the paper's authors publish them (with
    `--texture_layout other`)."""
    texture_layout: Literal["san_tf", "other"] = "san_tf"
    """`other`, such as SMPL's: textures keep their sides when their images are mirrored, because where left
    and right lie in them is not known here, and no pairs of this package's layout can join the batches."""


@dataclass(frozen=True)
class EvaluationRecipe(Ranking, Preparation):
    """What is tested on, and how: below, and as the evaluation command has it."""

    on: Literal["test", "validation"] = "test"
    """`validation`: test on the identities that `validation_identities` holds out, and leave the test sets
    alone, for results on which settings are chosen are not results."""
    test: tuple[str, ...] = ()
    """Data sets to test on instead of the experiment's own, each with its own rows in the results."""
    test_folder: str | None = None
    """Of the data set `custom`: another folder or archive to test on than `folder`. In a trained run,
    `--stage prepare evaluate --folder` means this one."""
    test_pattern: str | None = None
    """What `pattern` is to `folder`; none reads names as in training."""
    test_backgrounds: str | None = None
    """What `backgrounds` is, for rendered data sets that are tested on; none takes the training's."""
    test_skip_corrupt: bool | None = None
    """What `skip_corrupt` is, for the data sets that are tested on; none takes the training's."""
    test_check_counts: bool | None = None
    """What `check_counts` is, for the data sets that are tested on; none takes the training's."""
    protocol: Literal["own", "market", "cuhk03", "vehicleid", "cross-camera", "partial"] = "own"
    """Which images count, see `san_tf.evaluation.protocols`; `own`: each test set's, `market` for most."""
    normalize: bool = True
    """Scale embeddings to unit length before comparing them."""
    flip_average: bool = False
    """Average the embeddings of an image and its mirror image."""


@dataclass(frozen=True)
class Recipe:
    """All that decides an experiment's result.

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
        """Side of the square texture: four doublings of the last stage's map, whose stride is 16 or 32."""
        return self.data.image_size[0] // (1 if self.model.last_stride == 1 else 2)

    @property
    def training_sets(self) -> tuple[str, ...]:
        """The data sets that are trained on, by name; none where only textures are painted."""
        return self.data.train or ((self.data.dataset,) if self.data.dataset else ())

    @property
    def test_sets(self) -> tuple[str, ...]:
        """The data sets that are tested on, by name."""
        return self.evaluation.test or ((self.data.dataset,) if self.data.dataset else ())

    @property
    def with_decoder(self) -> bool:
        """Whether a decoder is trained: the method has one, and one of its losses has a weight."""
        weighs = self.losses.lambda_reconstruction > 0 or self.losses.lambda_texture_triplet > 0
        return weighs and self.training.method != "baseline"

    @property
    def with_generator(self) -> bool:
        """Whether a texture generator is needed: to paint, to start from, or as all that is trained."""
        starts = self.training.start == "texture-generator"
        return self.with_decoder or starts or not self.training_sets

    @property
    def needs_pairs(self) -> bool:
        """Whether images with their true textures are needed: to train the generator, or in the batches."""
        ready = self.generator.textures or self.generator.generator_weights
        return (self.with_generator and not ready) or (self.with_decoder and self.data.pit_per_batch > 0)
