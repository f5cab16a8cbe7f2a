"""SAN trains an encoder with a decoder's help; SANPG trains both to paint textures."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import keras
import tensorflow as tf

from san_tf import addons, registry
from san_tf.errors import UserError
from san_tf.keras_compat import KERAS_3, apply_gradients, optimizer_variables, scale_loss
from san_tf.losses import (
    batch_hard_triplet_loss,
    centre_loss,
    circle_loss,
    identity_loss,
    moved_centres,
    reconstruction_loss,
    texture_triplet_loss,
    with_margin,
)
from san_tf.models.builder import register
from san_tf.models.decoder import decoder_inputs
from san_tf.models.layer_factory import CosineClassifier
from san_tf.models.preset_folder import san_from_preset, save_to_preset
from san_tf.models.replicas import WholeBatch, summed, whole_on_each_replica
from san_tf.models.weights_file import KeepsForm

Batch = Mapping[str, tf.Tensor]
PACKAGE = "san_tf"
# Terms of the step that is being traced. Each replica is traced in its own thread, one after the other.
_step = threading.local()
OWN_TRIPLETS = ("batch-hard", "soft-margin", "circle")
_LABEL = "label out of range"
# Largest absolute values allowed. Images normalised by ImageNet's mean and deviation lie in [-2.2, 2.7], and
# custom augmentation may widen that. Textures lie in [-1, 1], plus a margin for rounding in 16 bits.
_LARGEST = {"image": 10.0, "texture": 1.01}


class LossWeights(NamedTuple):
    """Weights of the four losses; the defaults are the paper's.

    They are the lambdas of L = l1 L_ID + l2 L_Triplet + l3 L_Rec + l4 L_TR.

    Example:
        >>> SAN(encoder, decoder, loss_weights=LossWeights(identity=1.0, triplet=0.1))
    """

    identity: float = 0.5
    triplet: float = 1.5
    reconstruction: float = 1.0
    texture_triplet: float = 1.0


class Term(NamedTuple):
    """A batch's loss, its weight in the sum, and the number of rows in its mean."""

    value: tf.Tensor
    weight: float | tf.Tensor
    rows: tf.Tensor


class _TextureModel(KeepsForm, keras.Model):
    """Base of SAN and SANPG: one training step and one metric per loss; subclasses define the losses."""

    metric_names: tuple[str, ...] = ()
    # Names of the outputs that `predict` returns.
    predicted: tuple[str, ...] = ()

    def __init__(self, encoder: keras.Model, decoder: keras.Model | None, name: str | None = None) -> None:
        super().__init__(name=name)
        self.encoder = encoder
        self.decoder: Any = decoder
        self.trackers = {key: keras.metrics.Mean(name=key) for key in ("loss", *self.metric_names)}
        self.built = True  # both parts are functional models, which are built when they are created

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Running means, which Keras resets each epoch."""
        return list(self.trackers.values())

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        jit_compile: bool = False,
        **arguments: Any,
    ) -> None:
        """Set the optimiser; the model defines its losses and metrics.

        Args:
            optimizer: an optimiser such as `build_optimizer(...)`, or anything that Keras accepts.
            loss: must be None. For a custom loss extend `terms` or override `compute_loss`. `add_loss` and
                regularisers of layers work, too.
            loss_weights: must be None; the weights of the losses are arguments of the class.
            metrics: must be None; `evaluate` gives the losses, `san_tf.evaluation` gives mAP and CMC.
            weighted_metrics: must be None.
            jit_compile: whether to compile the step with XLA. Keras's default is to choose by itself. On a
                CPU, XLA compiles slowly and the compiled step is slower. XLA drops assertions: values of a
                `tf.data.Dataset` are checked before they reach it, wrong values of other data make the loss
                NaN.
            arguments: other arguments of `keras.Model.compile`, such as `run_eagerly`.

        Raises:
            UserError: `loss`, `loss_weights`, `metrics` or `weighted_metrics` is given.
        """
        given = {
            "loss": loss,
            "loss_weights": loss_weights,
            "metrics": metrics,
            "weighted_metrics": weighted_metrics,
        }
        wrong = [name for name, value in given.items() if value is not None]
        if wrong:
            kind = type(self).__name__
            raise UserError(
                f"{kind}.compile takes no {' and no '.join(wrong)}: {kind} brings its losses and metrics; for"
                f" a custom loss extend `terms` in a subclass, override `compute_loss`, or call `add_loss`."
            )
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **arguments)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile a loaded model with the settings it was saved with."""
        given = keras.saving.deserialize_keras_object(config)
        self.compile(**{name: value for name, value in given.items() if value is not None})
        self.optimizer.build(self.trainable_variables)

    def inference_model(self) -> keras.Model:
        """Functional model from images to the outputs of `predict`, with the same layers and weights."""
        image = self.encoder.input
        outputs = self.call(image, training=False)
        return keras.Model(
            image, {name: outputs[name] for name in self.predicted}, name=f"{self.name}_inference"
        )

    def export(self, filepath: str | os.PathLike[str], *arguments: Any, **options: Any) -> Any:
        """Export `inference_model` as Keras exports a functional model: a SavedModel by default.

        The input is normalised images `(batch, height, width, 3)` float32. For a server that takes pixels or
        files use `san_tf.serving.export_encoder`.

        Args:
            filepath: path of the folder or file to write.
            arguments: other arguments of `keras.Model.export`, by position.
            options: other arguments by name, such as `format="onnx"`.
        """
        return self.inference_model().export(os.fspath(filepath), *arguments, **options)

    def terms(self, batch: Batch, outputs: dict[str, Any]) -> dict[str, Term]:
        """Compute the losses of a batch by metric name; a subclass adds its own to `super().terms`.

        Args:
            batch: batch that `fit` gets.
            outputs: output of the model for `batch["image"]`.

        Returns:
            Terms by name; `metric_names` must list every name, so that it is logged.

        Example:
            >>> class Centred(SAN):
            ...     metric_names = (*SAN.metric_names, "centre_loss")
            ...
            ...     def terms(self, batch, outputs):
            ...         rows = tf.cast(tf.shape(batch["label"])[0], tf.float32)
            ...         centre = tf.reduce_mean(tf.square(outputs["embedding"]))
            ...         return super().terms(batch, outputs) | {"centre_loss": Term(centre, 5e-4, rows)}
        """
        raise NotImplementedError

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor:
        """Sum the weighted terms, the losses of `add_loss`, and the layers' regularisers.

        Args:
            x: images; not used here.
            y: the whole batch, a dict.
            y_pred: output of the model for the batch's images.
            sample_weight: not used; `label` -1 and `texture_weight` 0 exclude rows.
            training: not used.

        Returns:
            float32 scalar, the loss that the optimiser minimises.

        Raises:
            UserError: `terms` gives a name that `metric_names` lacks.
        """
        terms = self.terms(y, y_pred)
        unknown = sorted(terms.keys() - self.trackers.keys())
        if unknown:
            raise UserError(
                f"{type(self).__name__}.terms gives {', '.join(unknown)}, which metric_names lacks; add it"
                " there, so that it is logged."
            )
        _step.terms = terms
        losses = [term.weight * term.value for term in terms.values()]
        # Every replica computes the layers' whole penalties, and the replicas' gradients are added up.
        losses += [whole_on_each_replica(tf.cast(loss, tf.float32)) for loss in self.losses]
        return tf.add_n(losses)

    def make_train_function(self, force: bool = False) -> Any:
        """Create Keras's function for one batch of `fit`, after creating the optimiser's variables.

        A function that creates variables in its first call is traced twice. For a small network that takes
        longer than hundreds of steps.

        Args:
            force: whether to replace an existing function.
        """
        inner = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        # In Keras 2 averages start from the weights at the time of their creation, and a callback may load
        # other weights before the first step.
        if self.trainable_variables and (KERAS_3 or not getattr(inner, "use_ema", True)):
            with self.distribute_strategy.scope():
                optimizer_variables(self.optimizer, self.trainable_variables)
        return super().make_train_function(force)

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Train with Keras's `fit`.

        Raises:
            UserError: values of images or textures are out of range, or a label is neither -1 nor one of the
                classifier's identities.
        """
        with _values_told():
            return super().fit(*self._checked_before_xla(args), **self._checked_before_xla(kwargs))

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate with Keras's `evaluate`; raises the errors of `fit`."""
        with _values_told():
            return super().evaluate(*self._checked_before_xla(args), **self._checked_before_xla(kwargs))

    def _checked_before_xla(self, arguments: Any) -> Any:
        """Let the datasets among the arguments check their values themselves if XLA runs the step."""
        if self.jit_compile is not True:
            return arguments
        return tf.nest.map_structure(
            lambda one: one.map(self._check_values) if isinstance(one, tf.data.Dataset) else one, arguments
        )

    def _check_values(self, *batch: Any) -> Any:
        """Check labels, images and textures of a batch as the step does; the step reports missing keys."""
        (data,) = batch if len(batch) == 1 else (batch,)
        painted = self.decoder is not None
        needed = {"image", *(("texture", "texture_weight") if painted else ())}
        if not isinstance(data, Mapping) or not needed <= data.keys():
            return data
        checked = dict(_on_scale(data, painted))
        if "label" in data and isinstance(self.encoder.output, Mapping) and "logits" in self.encoder.output:
            classes = self.encoder.output["logits"].shape[-1]
            checked["label"] = _in_range(checked["label"], classes)
        return checked

    @property
    def learning_variables(self) -> list[Any]:
        """The variables that a training step moves: all trainable ones, unless some parts are frozen."""
        return list(self.trainable_variables)

    def train_step(self, data: Batch) -> dict[str, tf.Tensor]:
        """Take one optimiser step on a batch and return the running means of all metrics.

        `scale_loss` does nothing in float32. Under float16 it scales the loss. `apply_gradients` then
        unscales the gradients and skips the step if one overflowed. On several replicas the losses are those
        of the whole batch, and the gradients are summed, see `san_tf.models.replicas`.
        """
        check_batch(data, self)
        data = _on_scale(data, self.decoder is not None, self.jit_compile is True)
        variables = self.learning_variables
        if not variables:
            raise UserError(
                f"{type(self).__name__} has nothing to train: all its layers are frozen; set"
                " trainable=True on some of them and compile again."
            )
        if len(variables) < len(self.trainable_variables) and not KERAS_3:
            # Keras 2 would make slots of these alone, where there are none yet.
            with tf.init_scope():
                optimizer_variables(self.optimizer, self.trainable_variables)
        _step.terms = {}
        with tf.GradientTape() as tape:
            outputs = self(data["image"], training=True)
            loss = self.compute_loss(x=data["image"], y=data, y_pred=outputs)
            scaled = scale_loss(self.optimizer, loss)
        apply_gradients(self.optimizer, summed(tape.gradient(scaled, variables)), variables)
        self._after_step(data, outputs)
        return self._record(data, outputs, loss)

    def _after_step(self, batch: Batch, outputs: dict[str, Any]) -> None:
        """What a subclass does with a training step's outputs, when the weights have moved."""

    def test_step(self, data: Batch) -> dict[str, tf.Tensor]:
        """Compute the losses of a batch in inference mode, for `evaluate` and `validation_data`."""
        check_batch(data, self)
        data = _on_scale(data, self.decoder is not None, self.jit_compile is True)
        _step.terms = {}
        outputs = self(data["image"], training=False)
        loss = self.compute_loss(x=data["image"], y=data, y_pred=outputs, training=False)
        return self._record(data, outputs, loss)

    def predict_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Compute the `predicted` outputs of images, or of batches such as `fit` takes.

        Feature maps are left out, because those of a gallery of 20,000 images would take about 90 GB.
        """
        if isinstance(data, tuple):
            data = data[0]
        outputs = self(data["image"] if isinstance(data, Mapping) else data, training=False)
        return {name: outputs[name] for name in self.predicted}

    def _record(self, batch: Batch, outputs: dict[str, Any], loss: tf.Tensor) -> dict[str, tf.Tensor]:
        self.trackers["loss"].update_state(loss)
        for key, term in _step.terms.items():
            # Weighted by rows, so that a batch without rows for the loss does not pull the mean towards 0.
            self.trackers[key].update_state(term.value, sample_weight=term.rows)
        # An override of `compute_loss` may leave out terms; logging them as 0 would be wrong.
        return {
            key: tracker.result()
            for key, tracker in self.trackers.items()
            if key in _step.terms or not key.endswith("_loss")
        }

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, with both parts serialised."""
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "encoder": serialize(self.encoder),
            "decoder": None if self.decoder is None else serialize(self.decoder),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> _TextureModel:
        """Rebuild from `get_config`."""
        config = dict(config)
        for part in ("encoder", "decoder"):
            if config[part] is not None:
                config[part] = keras.saving.deserialize_keras_object(config[part], custom_objects)
        return cls(**config)


def _triplet_loss(name: str) -> Callable[[tf.Tensor, tf.Tensor, Any], tf.Tensor]:
    """Find a triplet loss by name: of this package, registered, or of TensorFlow Addons."""
    if name in OWN_TRIPLETS:
        return batch_hard_triplet_loss
    return registry.LOSSES[name] if name in registry.LOSSES else addons.triplet_loss(name)


@keras.saving.register_keras_serializable(PACKAGE)
class SAN(_TextureModel):
    """Semantics-aligned re-ID network: L = l1 L_ID + l2 L_Triplet + l3 L_Rec + l4 L_TR.

    Train with `fit` on a `tf.data.Dataset` of dicts: `image` (B, H, W, 3) float32 normalised; `label` (B,)
    int32, -1 for an image without identity (a PIT pair); `texture` (B, T, T, 3) float32 in [-1, 1];
    `texture_weight` (B,) float32, 0 for an image without texture. Calling the model on images returns the
    encoder's `embedding` and `logits` and the decoder's `texture` and `blocks`.

    Args:
        encoder: from `build_encoder`.
        decoder: from `build_decoder`, or None for the baseline, trained on L_ID and L_Triplet only.
        loss_weights: the four lambdas.
        margin: margin of both triplet losses.
        smoothing: label smoothing, in [0, 1).
        triplet: L_Triplet: "batch-hard" with the margin, "soft-margin" (batch-hard without one), "circle"
            (`san_tf.losses.circle_loss`), or one of TensorFlow Addons, such as "tfa.TripletSemiHardLoss" (see
            `san_tf.addons`).
        triplet_warmup: number of steps in which the weight of L_Triplet rises from 0 to its full value. From
            random weights the triplet loss can shrink all embeddings to one point. The warm-up lets the
            identity loss learn first.
        pairs: number of image-texture pairs, the last rows of each batch. Batch norms use the moving
            statistics for them, even in training. Otherwise these images (rendered people) shift the
            statistics of all other rows, and the embedding learns later or never.
        seed: with the optimiser's step count, seeds all randomness of a step (the triplets of L_TR).
        weights: refused; older versions used it as the name of `loss_weights`.
        circle_margin: of the circle loss, in [0, 1).
        circle_scale: of the circle loss.
        centre_weight: weight of one more loss, L_Centre (`san_tf.losses.centre_loss`), logged as
            `centre_loss`. It acts where L_Triplet does. Its centres are weights of this model, not of the
            encoder, and start at 0.
        centre_rate: how far the centres move each step, in [0, 1].

    Raises:
        UserError: a value is out of range, the triplet loss is unknown, or `weights` is given.

    Source: Jin et al., "Semantics-Aligned Representation Learning for Person Re-identification", AAAI 2020.

    Example:
        >>> encoder = build_encoder("thin_resnet", (128, 64, 3), num_classes=100, weights=None)
        >>> decoder = build_decoder([stage.shape for stage in encoder.output["stages"]], (64, 48, 32, 16, 8))
        >>> san = SAN(encoder, decoder)
        >>> san.compile(optimizer=build_optimizer(schedule=1e-3))
        >>> san.fit(dataset)
    """

    metric_names: tuple[str, ...] = ("id_loss", "triplet_loss", "rec_loss", "tr_loss", "accuracy", "spread")
    predicted: tuple[str, ...] = ("embedding", "logits")

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model | None = None,
        loss_weights: LossWeights | tuple[float, float, float, float] = LossWeights(),  # noqa: B008  # immutable
        margin: float = 0.3,
        smoothing: float = 0.1,
        seed: int = 0,
        name: str = "san",
        triplet: str = "batch-hard",
        pairs: int = 0,
        triplet_warmup: int = 0,
        weights: None = None,
        circle_margin: float = 0.25,
        circle_scale: float = 128.0,
        centre_weight: float = 0.0,
        centre_rate: float = 0.5,
    ) -> None:
        if weights is not None:
            raise UserError(
                "SAN takes no weights: the four lambdas are loss_weights=LossWeights(...), and pretrained"
                " weights are loaded by build_encoder(weights=...)."
            )
        if decoder is None:
            self.metric_names = tuple(key for key in self.metric_names if key not in ("rec_loss", "tr_loss"))
        # Written so that NaN does not pass.
        if not 0 <= smoothing < 1:
            raise UserError(f"smoothing must lie in [0, 1), not {smoothing!r}.")
        if not 0 <= circle_margin < 1 or not 0 < circle_scale < 1e6:
            raise UserError(
                f"circle_margin must lie in [0, 1) and circle_scale be positive; received {circle_margin!r}"
                f" and {circle_scale!r}."
            )
        if not 0 <= centre_weight < 1e6 or not 0 <= centre_rate <= 1:
            raise UserError(
                "centre_weight must not be negative and centre_rate must lie in [0, 1]; received"
                f" {centre_weight!r} and {centre_rate!r}."
            )
        if centre_weight:
            self.metric_names = (*self.metric_names, "centre_loss")
        super().__init__(encoder, decoder, name)
        self.loss_weights = LossWeights(*loss_weights)
        self.margin = margin
        self.smoothing = smoothing
        self.triplet = triplet
        self.pairs = pairs
        self.triplet_warmup = triplet_warmup
        self.circle_margin = circle_margin
        self.circle_scale = circle_scale
        self.centre_weight = centre_weight
        self.centre_rate = centre_rate
        self._triplet_loss = _triplet_loss(triplet)
        if triplet == "circle":
            self._triplet_loss = lambda label, embedding, _: circle_loss(
                label, embedding, circle_margin, circle_scale
            )
        if centre_weight:
            outputs = encoder.output
            shape = (outputs["logits"].shape[-1], outputs.get("feature", outputs["embedding"]).shape[-1])
            # Every replica moves them by the whole batch, so that any one's are right.
            aggregation = "only_first_replica" if KERAS_3 else tf.VariableAggregation.ONLY_FIRST_REPLICA
            self.centres = self.add_weight(
                name="centres",
                shape=shape,
                initializer="zeros",
                dtype="float32",
                trainable=False,
                aggregation=aggregation,
            )
        # The losses of TensorFlow Addons have no soft margin.
        self._margin: Any = None if triplet == "soft-margin" else margin
        self.seed = seed
        # Trunk and head of a frozen encoder, in a mapping, which keeps Keras from looking for layers in it.
        self._parts: Mapping[str, keras.Model] = MappingProxyType({})

    def call(self, image: tf.Tensor, training: bool = False) -> dict[str, Any]:
        """Return the outputs of the encoder and, if present, of the decoder."""
        if not (training and self.pairs):
            return self._answers(image, training)
        own, others = image[: -self.pairs], image[-self.pairs :]
        answers = self._answers(own, training), self._answers(others, training=False)
        return tf.nest.map_structure(lambda *rows: tf.concat(rows, axis=0), *answers)

    def freeze_backbone(self, frozen: bool = True) -> None:
        """Let the next steps train all but the backbone, or everything again.

        A frozen backbone is in inference mode: its weights and its norms' moving statistics stay, norms
        normalise by these, and dropout does nothing. Head, classifier and decoder learn. Layers stay
        `trainable`, so the optimiser's slots and checkpoints are the same. Each change traces the step anew.

        An optimiser with bias correction must count by variable: `build_optimizer(own_steps=True)`.

        Args:
            frozen: False trains the backbone again.

        Raises:
            UserError: the encoder has no four `stages` that part backbone and head, as `build_encoder` makes.

        Example:
            >>> san.freeze_backbone()
            >>> san.fit(dataset, epochs=5)
            >>> san.freeze_backbone(False)
            >>> san.fit(dataset, epochs=60, initial_epoch=5)
        """
        if frozen == bool(self._parts):
            return
        self._parts = MappingProxyType(_trunk_and_head(self.encoder) if frozen else {})
        # Keras makes it anew for the next `fit`.
        self.train_function = None

    @property
    def learning_variables(self) -> list[Any]:
        """The variables that a training step moves: all trainable ones but a frozen backbone's."""
        if not self._parts:
            return list(self.trainable_variables)
        frozen = {id(variable) for variable in self._parts["trunk"].trainable_variables}
        return [variable for variable in self.trainable_variables if id(variable) not in frozen]

    def _encoded(self, image: tf.Tensor, training: bool) -> dict[str, Any]:
        if not (training and self._parts):
            return self.encoder(image, training=training)
        stages = self._parts["trunk"](image, training=False)
        return self._parts["head"](stages[-1], training=True) | {"stages": stages}

    def _answers(self, image: tf.Tensor, training: bool) -> dict[str, Any]:
        encoded = self._encoded(image, training)
        outputs: dict[str, Any] = {
            name: encoded[name] for name in ("embedding", "logits", "feature") if name in encoded
        }
        if self.decoder is not None:
            inputs = decoder_inputs(self.decoder, encoded["stages"], image)
            outputs |= self.decoder(inputs, training=training)
        return outputs

    def terms(self, batch: Batch, outputs: dict[str, Any]) -> dict[str, Term]:
        """Compute the losses over the rows with an identity or a texture; see `metric_names`."""
        batch = {**batch, "label": _in_range(batch["label"], outputs["logits"].shape[-1])}
        whole, weights = WholeBatch(batch), self.loss_weights
        known = tf.reduce_sum(tf.cast(batch["label"] >= 0, tf.float32))
        logits = self._logits_to_learn_from(batch["label"], outputs["logits"])
        identity = whole.mean(identity_loss(batch["label"], logits, self.smoothing), known)
        # Triplets are mined and drawn over the whole batch, across all replicas.
        label, known = whole.rows(batch["label"]), whole.total(known)
        # With a BNNeck the triplet loss acts before the norm, see `build_encoder`.
        feature = whole.rows(outputs.get("feature", outputs["embedding"]))
        triplet = self._triplet_loss(label, feature, self._margin)
        terms = {
            "id_loss": Term(identity, weights.identity, known),
            "triplet_loss": Term(triplet, weights.triplet * self._triplet_share(), known),
        }
        if self.decoder is not None:
            terms["rec_loss"] = _reconstruction(batch, outputs["texture"], whole, weights.reconstruction)
            seed = tf.stack([tf.cast(self.seed, tf.int32), self._steps_done()])
            blocks = [whole.rows(block) for block in outputs["blocks"]]
            tr = texture_triplet_loss(label, blocks, seed, self.margin)
            terms["tr_loss"] = Term(tr, weights.texture_triplet, known)
        if self.centre_weight:
            centre = centre_loss(label, feature, tf.convert_to_tensor(self.centres))
            terms["centre_loss"] = Term(centre, self.centre_weight, known)
        return terms

    def _logits_to_learn_from(self, label: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """The classifier's answers, with the margin of ArcFace or CosFace where it has one."""
        classifier = cosine_classifier(self.encoder)
        if classifier is None:
            return logits
        scale = classifier.scale
        return with_margin(label, logits / scale, classifier.kind, classifier.margin, scale)

    def _after_step(self, batch: Batch, outputs: dict[str, Any]) -> None:
        """Move the centres of L_Centre."""
        if self.centre_weight:
            whole = WholeBatch(batch)
            feature = tf.stop_gradient(whole.rows(outputs.get("feature", outputs["embedding"])))
            centres = tf.convert_to_tensor(self.centres)
            self.centres.assign(moved_centres(whole.rows(batch["label"]), feature, centres, self.centre_rate))

    def _triplet_share(self) -> tf.Tensor | float:
        """Share of L_Triplet's weight at this step, 0 to 1; 1 for a model that was never compiled."""
        if not self.triplet_warmup or getattr(self, "optimizer", None) is None:
            return 1.0
        done = tf.cast(self._steps_done() + 1, tf.float32)
        return tf.minimum(done / float(self.triplet_warmup), 1.0)

    def _steps_done(self) -> tf.Tensor:
        """The optimiser's step count, int32; 0 for a model that was never compiled."""
        optimizer = getattr(self, "optimizer", None)
        return tf.cast(0 if optimizer is None else tf.convert_to_tensor(optimizer.iterations), tf.int32)

    def _record(self, batch: Batch, outputs: dict[str, Any], loss: tf.Tensor) -> dict[str, tf.Tensor]:
        whole, label = WholeBatch(batch), tf.cast(batch["label"], tf.int32)
        right = tf.equal(tf.argmax(outputs["logits"], axis=1, output_type=tf.int32), label)
        # Gathered as float32, because some strategies cannot gather booleans.
        right = whole.rows(tf.cast(right, tf.float32))
        known = tf.cast(whole.rows(label) >= 0, tf.float32)
        self.trackers["accuracy"].update_state(right, known)
        feature = whole.rows(outputs.get("feature", outputs["embedding"]))
        self.trackers["spread"].update_state(spread(feature, known), tf.reduce_sum(known))
        return super()._record(batch, outputs, loss)

    @classmethod
    def from_preset(
        cls,
        preset: str,
        num_classes: int | None = None,
        *,
        load_weights: bool = True,
        seed: int | None = None,
        **overrides: Any,
    ) -> SAN:
        """Build a preset's network, by name, folder or address on the hub.

        For arguments and errors see `san_tf.models.preset_folder.san_from_preset`.

        Example:
            >>> san = SAN.from_preset("san_light", num_classes=100)
        """
        san: SAN = san_from_preset(preset, num_classes, load_weights=load_weights, seed=seed, **overrides)
        return san

    def save_to_preset(
        self,
        folder: str | os.PathLike[str],
        card: Mapping[str, Any] | None = None,
        *,
        weights: Literal["float32", "float16"] = "float32",
        classifier: bool = True,
    ) -> Path:
        """Write the network as a preset folder; see `san_tf.models.preset_folder.save_to_preset`."""
        return save_to_preset(self, folder, card, weights=weights, classifier=classifier)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, with both parts serialised."""
        own = {"margin": self.margin, "smoothing": self.smoothing, "seed": self.seed, "pairs": self.pairs}
        return (
            super().get_config()
            | own
            | {
                "loss_weights": list(self.loss_weights),
                "triplet": self.triplet,
                "triplet_warmup": self.triplet_warmup,
                "circle_margin": self.circle_margin,
                "circle_scale": self.circle_scale,
                "centre_weight": self.centre_weight,
                "centre_rate": self.centre_rate,
            }
        )

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> SAN:
        """Rebuild from `get_config`, of this version or an older one."""
        config = dict(config)
        if "weights" in config:
            config["loss_weights"] = config.pop("weights")
        san: SAN = super().from_config(config, custom_objects)  # type: ignore[assignment]
        return san


def cosine_classifier(encoder: keras.Model) -> CosineClassifier | None:
    """The classifier of an encoder, if it is ArcFace's or CosFace's."""
    found = [layer for layer in encoder.layers if isinstance(layer, CosineClassifier)]
    return found[0] if found else None


def _trunk_and_head(encoder: keras.Model) -> dict[str, keras.Model]:
    """An encoder cut at its last stage: the models from images to stages, and from the last to the rest."""
    outputs = encoder.output
    try:
        stages = outputs["stages"]
        rest = {name: value for name, value in outputs.items() if name != "stages"}
        return {
            "trunk": keras.Model(encoder.input, stages, name=f"{encoder.name}_trunk"),
            "head": keras.Model(stages[-1], rest, name=f"{encoder.name}_head"),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"The backbone of {encoder.name} cannot be frozen, because its embedding and logits are not made"
            " of the last of its stages alone; freeze layers of it with trainable=False instead."
        ) from error


register("SAN", SAN)


@keras.saving.register_keras_serializable(PACKAGE)
class SANPG(_TextureModel):
    """Pseudo-texture generator: encoder and decoder trained on pairs of image and texture by L_Rec only.

    The encoder's head (pooling, classifier) is left out, because the texture does not need it. Train with
    `fit` on dicts with `image`, `texture` and `texture_weight`, shaped as for `SAN`. Calling the model on
    images returns `texture` and `blocks`.

    Args:
        encoder: from `build_encoder`; its layers are used in place, not copied.
        decoder: from `build_decoder`.

    Source: Jin et al., AAAI 2020, section "Pseudo Groundtruth Texture Images Generation".

    Example:
        >>> generator = SANPG(encoder, decoder)
        >>> generator.compile(optimizer="adam")
        >>> generator.fit(pit_dataset(pairs, 64, (128, 64), 128))
        >>> painted = generator.predict(images)["texture"]
    """

    metric_names: tuple[str, ...] = ("rec_loss",)
    predicted: tuple[str, ...] = ("texture",)

    def __init__(self, encoder: keras.Model, decoder: keras.Model, name: str = "sanpg") -> None:
        if isinstance(encoder.output, dict):
            encoder = keras.Model(encoder.input, encoder.output["stages"], name=f"{encoder.name}_trunk")
        super().__init__(encoder, decoder, name)

    def call(self, image: tf.Tensor, training: bool = False) -> dict[str, Any]:
        """Return the painted `texture` (B, T, T, 3) in [-1, 1] and the decoder's `blocks`."""
        stages = self.encoder(image, training=training)
        return self.decoder(decoder_inputs(self.decoder, stages, image), training=training)

    def terms(self, batch: Batch, outputs: dict[str, Any]) -> dict[str, Term]:
        """Compute L_Rec over the rows that have a texture."""
        return {"rec_loss": _reconstruction(batch, outputs["texture"], WholeBatch(batch), 1.0)}


def check_batch(batch: Any, model: SAN | SANPG) -> None:
    """Check a batch's keys, dtypes and shapes for `fit` and `evaluate`, once per tracing.

    Args:
        batch: element of the data set.
        model: model to be trained or evaluated.

    Raises:
        UserError: the batch is not a dict, a key is missing, or a value has a wrong dtype or shape.
    """
    kind = type(model).__name__
    image = tuple(model.encoder.input.shape[1:])
    wanted: dict[str, tuple[str, tuple[int | None, ...]]] = {"image": ("float32", image)}
    if isinstance(model, SAN):
        wanted["label"] = ("int32", ())
    if model.decoder is not None:
        wanted["texture"] = ("float32", tuple(model.decoder.output["texture"].shape[1:]))
        wanted["texture_weight"] = ("float32", ())
    contract = ", ".join(f"{name} ({', '.join(map(str, ('B', *shape)))}{'' if shape else ','}) {dtype}"
                         for name, (dtype, shape) in wanted.items())  # fmt: skip
    if not isinstance(batch, Mapping):
        what = f"a tuple of {len(batch)}" if isinstance(batch, tuple) else f"a {type(batch).__name__}"
        raise UserError(f"{kind} takes batches that are dicts of {contract}; received {what}.")
    missing = [name for name in wanted if name not in batch]
    if missing:
        raise UserError(
            f"The batch lacks {' and '.join(missing)}: {kind} takes dicts of {contract}; received"
            f" {', '.join(sorted(map(str, batch)))}."
        )
    for name, (dtype, shape) in wanted.items():
        value = batch[name]
        fits = value.dtype.is_floating if dtype == "float32" else value.dtype.is_integer
        if not fits:
            help_ = "; normalise pixels with san_tf.normalization.normalize" if name == "image" else ""
            raise UserError(f"The batch's {name} is {value.dtype.name}, but {kind} takes {dtype}{help_}.")
        if not value.shape.is_compatible_with((None, *shape)):
            raise UserError(
                f"The batch's {name} has the shape {tuple(value.shape)}, but {kind} takes"
                f" {('B', *shape)}; B is the number of images."
            )


def spread(feature: tf.Tensor, known: tf.Tensor) -> tf.Tensor:
    """Root mean square of the Euclidean distance between two embeddings of a batch.

    It is 0 when all images have the same embedding, which cannot distinguish any identities. While it is
    below the margin of the triplet loss, no triplet can be satisfied.

    Args:
        feature: `(batch, dimensions)` of any float dtype; computed in float32.
        known: `(batch,)` float32, 1 for rows that count and 0 for others.

    Returns:
        float32 scalar in the embedding's unit, over pairs of different rows; 0 for fewer than two rows.

    Example:
        >>> float(spread(tf.constant([[0.0, 0.0], [3.0, 4.0]]), tf.ones(2)))
        5.0
    """
    feature, row = tf.cast(feature, tf.float32), known[:, None]
    rows = tf.reduce_sum(known)
    mean = tf.math.divide_no_nan(tf.reduce_sum(feature * row, axis=0), rows)
    # The mean of |a - b|^2 over pairs is twice the variance; |a|^2 + |b|^2 - 2ab would cancel digits.
    around = tf.reduce_sum(tf.square(feature - mean) * row)
    return tf.sqrt(tf.math.divide_no_nan(2.0 * around, rows - 1.0))


def _in_range(label: tf.Tensor, classes: int) -> tf.Tensor:
    """Check that labels lie in [-1, classes) and return them; others silently give NaN on a GPU."""
    worst = tf.where(tf.reduce_min(label) < -1, tf.reduce_min(label), tf.reduce_max(label))
    fine = ((worst >= -1) & (worst < classes)) | tf.equal(tf.size(label), 0)
    check = tf.debugging.Assert(fine, [_LABEL, worst, classes])
    with tf.control_dependencies([check]):
        return tf.identity(label)


def _on_scale(batch: Batch, painted: bool, xla: bool = False) -> Batch:
    """Check that images are normalised and textures lie in [-1, 1], and return the batch.

    Every eighth pixel of every eighth row is checked, which costs almost nothing and is enough to detect
    values of 0 to 255. NaN passes; callbacks detect it in the loss. XLA drops the assertion, so under XLA
    wrong values become NaN.
    """
    checked = dict(batch)
    for name, largest in _LARGEST.items():
        if name == "texture" and not painted:  # a baseline ignores textures
            continue
        values = tf.abs(tf.cast(batch[name][:, ::8, ::8], tf.float32))
        if name == "texture":
            # Rows of weight 0 may hold anything.
            values = tf.where(batch["texture_weight"][:, None, None, None] > 0, values, 0.0)
        worst = tf.reduce_max(values)
        # `not >` lets NaN pass, and the -inf of an empty batch.
        check = tf.debugging.Assert(tf.logical_not(worst > largest), [f"{name} out of scale", worst, largest])
        with tf.control_dependencies([check]):
            checked[name] = tf.identity(batch[name])
        if xla:
            poison = tf.where(worst > largest, float("nan"), 0.0)
            checked[name] += tf.cast(poison, checked[name].dtype)
    return checked


@contextlib.contextmanager
def _values_told() -> Iterator[None]:
    """Turn errors of `_in_range` and `_on_scale` into a `UserError`."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        # A graph gives `[name] [worst] [limit]`; eager execution puts the three on separate lines.
        number = r"[^-\d]+([-\w.+]+)"
        found = re.search(rf"({_LABEL}|\w+ out of scale){number}{number}", str(error))
        if found is None:
            raise
        raise UserError(_sentence(*found.groups())) from None


def _sentence(what: str, worst: str, limit: str) -> str:
    if what == _LABEL:
        return (
            f"A label is {worst}, but the encoder has {limit} identities: labels must be 0 to "
            f"{int(limit) - 1}, or -1 for none; renumber the identities, or build the encoder with a larger "
            "num_classes."
        )
    if what.startswith("texture"):
        return (
            f"The batch's texture has values up to {float(worst):g}, but textures lie in [-1, 1]; pass"
            " pixels / 127.5 - 1."
        )
    return (
        f"The batch's image has values up to {float(worst):g}, so it is not normalised; pass"
        " san_tf.normalization.normalize(pixels), with pixels from 0 to 255."
    )


def _reconstruction(batch: Batch, painted: tf.Tensor, whole: WholeBatch, weight: float) -> Term:
    """Compute L_Rec over the rows that have a texture."""
    rows = tf.reduce_sum(batch["texture_weight"])
    rec = reconstruction_loss(batch["texture"], painted, batch["texture_weight"])
    return Term(whole.mean(rec, rows), weight, whole.total(rows))
