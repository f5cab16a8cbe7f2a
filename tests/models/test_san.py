"""The training steps on tiny networks: masks, gradients, precision, XLA, reproducibility, serialisation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from san_tf.errors import UserError
from san_tf.keras_compat import KERAS_3, model_variables, optimizer_variables
from san_tf.losses import (
    batch_hard_triplet_loss,
    circle_loss,
    identity_loss,
    reconstruction_loss,
    texture_triplet_loss,
)
from san_tf.models import SAN, SANPG, LossWeights, build_decoder, build_encoder
from san_tf.models.layer_factory import LayerFactory
from san_tf.models.pretrained import load_body
from san_tf.training.optimizers import build_optimizer
from san_tf.training.precision import precision_scope


def tiny_encoder(seed=1):
    """The contract of an encoder in four convolutions: keeps the tests about the training step."""
    factory = LayerFactory(seed)
    x = image = keras.Input((32, 16, 3))
    stages = []
    for index, stride in enumerate((4, 2, 2, 1), start=1):
        x = factory.conv_bn(x, 8 * index, 3, stride, name=f"stage{index}")
        stages.append(x)
    embedding = keras.layers.GlobalAveragePooling2D(dtype="float32")(x)
    logits = factory.dense(embedding, 4, name="classifier")
    return keras.Model(image, {"embedding": embedding, "logits": logits, "stages": stages})


def tiny_decoder(encoder, skips=False, seed=1):
    shapes = [stage.shape for stage in encoder.output["stages"]]
    return build_decoder(shapes, (8, 8, 8, 4, 4), skips=skips, seed=seed)


def tiny_batch(seed=0, junk=4):
    """8 re-ID images of 4 identities whose colour tells them apart, and `junk` PIT pairs."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(4), 2).astype(np.int32)
    image = rng.normal(0, 0.3, (8 + junk, 32, 16, 3)) + np.eye(4, 3)[np.r_[label, [3] * junk]][:, None, None]
    texture = np.tanh(rng.normal(0, 0.1, (8 + junk, 32, 32, 3)) + image.mean(axis=(1, 2))[:, None, None])
    return {
        "image": tf.constant(image, tf.float32),
        "label": tf.constant(np.r_[label, [-1] * junk], tf.int32),
        "texture": tf.constant(texture, tf.float32),
        "texture_weight": tf.constant([1.0] * 6 + [0.0] * 2 + [1.0] * junk),
    }


def tiny_san(decoder=True, skips=False, seed=7, lr=1e-2, jit_compile=False, **arguments):
    encoder = tiny_encoder()
    san = SAN(encoder, tiny_decoder(encoder, skips) if decoder else None, seed=seed, **arguments)
    san.compile(optimizer=build_optimizer(schedule=lr, weight_decay=0.0), jit_compile=jit_compile)
    return san


def repeated(batch):
    return tf.data.Dataset.from_tensors(batch).repeat()


def test_total_is_the_weighted_sum_of_the_four_losses():
    weights = LossWeights(0.7, 1.3, 2.0, 0.4)
    san, batch = tiny_san(loss_weights=weights), tiny_batch()
    outputs = san(batch["image"], training=True)
    expected = {
        "id_loss": identity_loss(batch["label"], outputs["logits"]),
        "triplet_loss": batch_hard_triplet_loss(batch["label"], outputs["embedding"]),
        "rec_loss": reconstruction_loss(batch["texture"], outputs["texture"], batch["texture_weight"]),
        "tr_loss": texture_triplet_loss(batch["label"], outputs["blocks"], tf.constant([7, 0])),
    }
    logs = san.train_step(batch)
    for key, value in expected.items():
        assert float(logs[key]) == pytest.approx(float(value), rel=1e-5)
    total = sum(w * float(v) for w, v in zip(weights, expected.values(), strict=True))
    assert float(logs["loss"]) == pytest.approx(total, rel=1e-5)
    right = np.argmax(outputs["logits"], axis=1)[:8] == np.array(batch["label"][:8])
    assert float(logs["accuracy"]) == pytest.approx(right.mean())


def test_defaults_are_the_papers():
    san = tiny_san()
    assert tuple(san.loss_weights) == (0.5, 1.5, 1.0, 1.0) and san.margin == 0.3 and san.smoothing == 0.1


# XLA takes half a minute for these networks; `test_precision_parity` trains a smaller SAN by it.
@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_fit_learns(jit_compile):
    san = tiny_san(jit_compile=jit_compile)
    history = san.fit(repeated(tiny_batch()), epochs=3, steps_per_epoch=15, verbose=0).history
    assert set(history) >= {"loss", "id_loss", "triplet_loss", "rec_loss", "tr_loss", "accuracy"}
    # Seen with two seeds: at most 0.29, 0.39 and 0.56.
    for key, share in {"loss": 0.6, "id_loss": 0.7, "rec_loss": 0.8}.items():
        assert history[key][-1] < share * history[key][0], key
    assert history["accuracy"][-1] > 0.9


@pytest.mark.parametrize(("precision", "settings"), [("float32", {}), ("mixed_float16", {"ema": 0.9})])
def test_a_step_is_traced_once_and_is_the_same_step(settings, precision):
    traced = []

    class Traced(SAN):
        def terms(self, batch, outputs):
            traced.append(not tf.executing_eagerly())
            return super().terms(batch, outputs)

    weights = []
    for slots_first in (False, True):
        with precision_scope(precision):
            san = Traced(tiny_encoder())
            # Frozen weights have no slots, and are no reason to make others.
            san.encoder.get_layer("stage1_conv").trainable = False
            san.compile(optimizer=build_optimizer(schedule=1e-2, **settings), jit_compile=False)
            if slots_first:
                optimizer_variables(san.optimizer, san.trainable_variables)
            san.fit(repeated(tiny_batch()), epochs=2, steps_per_epoch=2, verbose=0)
        # Keras 2 makes averages in the first step.
        assert traced == [True] * (1 if KERAS_3 or slots_first or "ema" not in settings else 2)
        traced.clear()
        slots = optimizer_variables(san.optimizer, san.trainable_variables)
        weights.append([*san.get_weights(), *(np.array(variable) for _, variable in slots)])
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_baseline_has_no_texture_losses_and_ignores_textures():
    san = tiny_san(decoder=False)
    batch = tiny_batch()
    history = san.fit(repeated(batch), epochs=2, steps_per_epoch=10, verbose=0).history
    assert "rec_loss" not in history and "tr_loss" not in history
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    assert set(san(batch["image"])) == {"embedding", "logits"}
    bare = {key: batch[key] for key in ("image", "label")}
    assert np.isfinite(float(san.train_step(bare)["loss"]))


@pytest.mark.parametrize("skips", [False, True])
def test_decoder_losses_reach_the_encoder_through_stage_4_alone_unless_there_are_skips(skips):
    san, batch = tiny_san(skips=skips), tiny_batch()
    stages = san.encoder(batch["image"], training=True)["stages"]
    with tf.GradientTape() as tape:  # from the stage tensors on, so not through the encoder's later stages
        tape.watch(stages)
        painted = san.decoder(stages, training=True)
        loss = reconstruction_loss(batch["texture"], painted["texture"], batch["texture_weight"])
        loss += texture_triplet_loss(batch["label"], painted["blocks"], tf.constant([0, 0]))
    direct = [gradient is not None for gradient in tape.gradient(loss, stages)]
    assert direct == [skips, skips, skips, True]


def test_the_classifier_gets_no_gradient_from_the_decoder():
    san, batch = tiny_san(loss_weights=(0.0, 0.0, 1.0, 1.0)), tiny_batch()
    before = [np.array(v) for v in san.encoder.get_layer("classifier").trainable_variables]
    trunk = np.array(san.encoder.get_layer("stage1_conv").trainable_variables[0])
    san.train_step(batch)
    for old, new in zip(before, san.encoder.get_layer("classifier").trainable_variables, strict=True):
        np.testing.assert_array_equal(old, new)
    assert not np.array_equal(trunk, san.encoder.get_layer("stage1_conv").trainable_variables[0])


def test_junk_and_missing_textures_are_masked_out():
    san, batch = tiny_san(), tiny_batch()
    noise = np.random.default_rng(5).normal(size=(12, 32, 32, 3)).astype(np.float32)
    other = dict(
        batch, texture=tf.where(batch["texture_weight"][:, None, None, None] > 0, batch["texture"], noise)
    )
    assert np.abs(other["texture"] - batch["texture"]).max() > 1
    a = san.test_step(batch)
    a = {key: float(value) for key, value in a.items()}
    for metric in san.metrics:
        metric.reset_state()
    b = {key: float(value) for key, value in san.test_step(other).items()}
    assert a == b


def test_a_batch_of_pairs_alone_trains_the_decoder_and_stays_finite():
    san, batch = tiny_san(), tiny_batch()
    pairs = {key: value[8:] for key, value in batch.items()}
    logs = san.train_step(pairs)
    assert float(logs["rec_loss"]) > 0 and np.isfinite(float(logs["loss"]))
    assert all(np.isfinite(v).all() for v in san.get_weights())


def test_pairs_stay_out_of_the_statistics_but_not_out_of_the_losses():
    batch = tiny_batch()
    own = {name: rows[:8] for name, rows in batch.items()}
    mixed, apart, alone = tiny_san(), tiny_san(pairs=4), tiny_san()
    for san, rows in ((mixed, batch), (apart, batch), (alone, own)):
        san.train_step(rows)
    moving = [
        {v.path if KERAS_3 else v.name: v.numpy() for v in san.encoder.variables if "moving" in v.name}
        for san in (mixed, apart, alone)
    ]
    assert moving[0]
    for name in moving[0]:
        np.testing.assert_allclose(moving[1][name], moving[2][name], atol=1e-6)
    assert any(np.abs(moving[0][name] - moving[2][name]).max() > 1e-3 for name in moving[0])
    # The first step's losses: identities and triplets as without pairs, reconstruction with them.
    for key in ("id_loss", "triplet_loss"):
        np.testing.assert_allclose(apart.trackers[key].result(), alone.trackers[key].result(), rtol=1e-5)
    answers = tiny_san()
    painted = tf.concat(
        [
            answers(own["image"], training=True)["texture"],
            answers(batch["image"][8:], training=False)["texture"],
        ],
        0,
    )
    # Painted in the order of the step: the pairs by the statistics after the others' update.
    expected = reconstruction_loss(batch["texture"], painted, batch["texture_weight"])
    np.testing.assert_allclose(apart.trackers["rec_loss"].result(), expected, rtol=1e-4)
    assert apart(batch["image"], training=True)["texture"].shape == batch["texture"].shape


def test_same_seed_same_weights_to_the_bit_and_another_seed_others():
    batch = tiny_batch()
    runs = []
    for seed in (1, 1, 2):
        san = tiny_san(seed=seed)
        for _ in range(3):
            san.train_step(batch)
        runs.append(san.get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(runs[0], runs[1], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(runs[0], runs[2], strict=True))


def test_triplets_change_with_the_step():
    san, batch = tiny_san(lr=0.0), tiny_batch()  # nothing but the step count changes
    values = []
    for _ in range(4):
        san.trackers["tr_loss"].reset_state()
        values.append(float(san.train_step(batch)["tr_loss"]))
    assert len(set(values)) > 1


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_learns_with_float32_weights(precision):
    with precision_scope(precision):
        san = tiny_san()
        history = san.fit(repeated(tiny_batch()), epochs=3, steps_per_epoch=8, verbose=0).history
    assert history["loss"][-1] < 0.9 * history["loss"][0]
    assert {tf.as_dtype(v.dtype) for v in san.trainable_variables} == {tf.float32}
    scaled = "dynamic_scale" in dict(optimizer_variables(san.optimizer, san.trainable_variables))
    assert scaled == (precision == "mixed_float16")


def test_float16_overflow_skips_the_step_and_halves_the_scale():
    with precision_scope("mixed_float16"):
        san = tiny_san()
        batch = tiny_batch()
        san.train_step(batch)
        before = [np.array(v) for v in san.trainable_variables]
        scale = dict(optimizer_variables(san.optimizer, san.trainable_variables))["dynamic_scale"]
        assert float(scale) < 2.0**60
        scale.assign(2.0**60)  # every gradient overflows
        steps = int(san.optimizer.iterations)
        san.train_step(batch)
    for old, new in zip(before, san.trainable_variables, strict=True):
        np.testing.assert_array_equal(old, new)
    assert float(scale) == 2.0**59
    assert int(san.optimizer.iterations) == steps + (0 if KERAS_3 else 1)  # Keras 2 counts what it skips


def test_sanpg_trains_only_what_the_texture_needs():
    encoder = tiny_encoder()
    sanpg = SANPG(encoder, tiny_decoder(encoder))
    sanpg.compile(optimizer=build_optimizer(schedule=1e-2, weight_decay=0.0), jit_compile=False)
    names = {name.split("/")[0] for name, _ in model_variables(sanpg)}
    assert "classifier" not in names and "stage1_conv" in names
    batch = {k: v for k, v in tiny_batch().items() if k != "label"}
    # Short epochs, so that the first one's mean is that of a network which cannot paint yet.
    history = sanpg.fit(repeated(batch), epochs=8, steps_per_epoch=4, verbose=0).history
    assert set(history) == {"loss", "rec_loss"}
    assert history["rec_loss"][-1] < 0.8 * history["rec_loss"][0]
    assert history["loss"] == pytest.approx(history["rec_loss"], rel=1e-4)
    assert sanpg(batch["image"])["texture"].shape == (12, 32, 32, 3)


@pytest.mark.parametrize("kind", ["san", "baseline", "sanpg"])
def test_models_go_round_through_a_keras_file(kind, tmp_path):
    encoder = tiny_encoder()
    decoder = None if kind == "baseline" else tiny_decoder(encoder)
    model = SANPG(encoder, decoder) if kind == "sanpg" else SAN(encoder, decoder, (1, 2, 3, 4), 0.2, 0.0, 5)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    image = tiny_batch()["image"]
    key = "embedding" if kind == "baseline" else "texture"
    np.testing.assert_allclose(again(image)[key], model(image)[key], atol=1e-6)
    if kind != "sanpg":
        assert (again.loss_weights, again.margin, again.smoothing, again.seed) == ((1, 2, 3, 4), 0.2, 0.0, 5)


def test_smoothing_out_of_range_is_refused():
    with pytest.raises(UserError, match="smoothing"):
        SAN(tiny_encoder(), smoothing=1.0)


@pytest.mark.parametrize(("label", "said"), [(9, "A label is 9"), (-2, "A label is -2")])
def test_labels_out_of_range_are_a_sentence(label, said):
    batch = tiny_batch()
    batch["label"] = tf.constant([label] * 12, tf.int32)
    san = tiny_san(decoder=False)
    for method in (san.fit, san.evaluate):
        steps = {"steps_per_epoch": 1} if method == san.fit else {"steps": 1}
        with pytest.raises(UserError, match=rf"{said}, but the encoder has 4 ident.*must be 0 to 3"):
            method(repeated(batch), verbose=0, **steps)


def test_a_frozen_backbone_stays_while_head_and_decoder_learn():
    batch = tiny_batch()
    san = tiny_san()
    slots = [name for name, _ in optimizer_variables(san.optimizer, san.trainable_variables)]
    backbone = [v for v in san.encoder.variables if "classifier" not in getattr(v, "path", v.name)]
    others = [*san.encoder.get_layer("classifier").variables, *san.decoder.trainable_variables]

    def values():
        return [[np.array(v) for v in part] for part in (backbone, others)]

    before = values()
    inference = san(batch["image"], training=False)
    san.freeze_backbone()
    frozen = san(batch["image"], training=True)
    # Moving statistics, not the batch's; the decoder's own norms are in training.
    for name in ("embedding", "logits"):
        np.testing.assert_array_equal(frozen[name], inference[name])
    assert np.abs(frozen["texture"] - inference["texture"]).max() > 0.01
    assert {id(v) for v in san.learning_variables} == {id(v) for v in others}
    first = san.fit(repeated(batch), steps_per_epoch=8, epochs=2, verbose=0).history
    assert first["id_loss"][1] < first["id_loss"][0]
    after = values()
    for one, other in zip(before[0], after[0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert all(np.abs(one - other).max() > 0 for one, other in zip(before[1], after[1], strict=True))
    san.freeze_backbone(False)
    assert len(san.learning_variables) == len(san.trainable_variables)
    san.fit(repeated(batch), steps_per_epoch=4, epochs=1, verbose=0)
    thawed = values()
    # Gains, shifts and kernels, and moving statistics.
    assert all(np.abs(one - other).max() > 0 for one, other in zip(after[0], thawed[0], strict=True))
    assert slots == [name for name, _ in optimizer_variables(san.optimizer, san.trainable_variables)]


def test_an_encoder_whose_embedding_is_not_of_its_last_stage_cannot_be_frozen():
    image = keras.Input((32, 16, 3))
    x = keras.layers.Conv2D(4, 3)(image)
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 1)(x))
    last = keras.layers.Conv2D(4, 1)(x)
    logits = keras.layers.Dense(3)(pooled)
    encoder = keras.Model(image, {"embedding": pooled, "logits": logits, "stages": [x, x, x, last]})
    with pytest.raises(UserError, match="cannot be frozen"):
        SAN(encoder).freeze_backbone()


def baseline_of(classes=4, **arguments):
    return build_encoder("thin_resnet", (32, 16, 3), classes, "bnneck", weights=None, seed=1, **arguments)


def test_centres_follow_their_identities_and_go_into_a_keras_file(tmp_path):
    """The logged loss is that of the centres before the step; they move by Wen's equation 4."""
    batch = tiny_batch()
    san = SAN(tiny_encoder(), loss_weights=LossWeights(1.0, 0.0), centre_weight=2.0, centre_rate=0.25)
    san.compile(optimizer=build_optimizer("sgd", schedule=0.0, weight_decay=0.0), jit_compile=False)
    embedding = np.array(san(batch["image"], training=True)["embedding"], np.float64)
    centres = np.zeros((4, 32))
    for _ in range(2):
        logs = san.train_step(batch)
        # The last rows have no identity.
        own = centres[np.array(batch["label"][:8])]
        expected = np.mean(0.5 * np.sum((embedding[:8] - own) ** 2, axis=1))
        assert float(logs["centre_loss"]) == pytest.approx(expected, rel=1e-4)
        assert float(logs["loss"]) == pytest.approx(float(logs["id_loss"]) + 2.0 * expected, rel=1e-4)
        for tracker in san.metrics:
            tracker.reset_state()
        for j in range(4):
            rows = embedding[np.array(batch["label"]) == j]
            centres[j] -= 0.25 * np.sum(centres[j] - rows, axis=0) / (1 + len(rows))
        np.testing.assert_allclose(np.array(san.centres), centres, atol=1e-5)
    before = np.array(san.centres)
    san.evaluate(repeated(batch), steps=1, verbose=0)
    np.testing.assert_array_equal(np.array(san.centres), before)
    assert len(san.trainable_variables) == len(tiny_san(decoder=False).trainable_variables)
    san.save(tmp_path / "san.keras")
    again = keras.models.load_model(tmp_path / "san.keras")
    assert (again.centre_weight, again.centre_rate) == (2.0, 0.25)
    np.testing.assert_array_equal(np.array(again.centres), before)
    assert not any("centres" in name for name, _ in model_variables(tiny_san(decoder=False)))


@pytest.mark.parametrize("kind", ["arcface", "cosface"])
def test_the_identity_loss_has_the_classifiers_margin_and_its_logits_have_none(kind, tmp_path):
    settings = {"classifier": kind, "classifier_scale": 8.0, "classifier_margin": 0.3}
    encoder, batch = baseline_of(**settings), tiny_batch(junk=1)
    outputs = encoder(batch["image"], training=False)
    (kernel,) = encoder.get_layer("classifier").get_weights()
    x = np.array(outputs["embedding"], np.float64)
    cosine = (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (kernel / np.linalg.norm(kernel, axis=0))
    np.testing.assert_allclose(outputs["logits"], 8.0 * cosine, atol=1e-4)
    san, label = SAN(encoder), np.array(batch["label"])
    losses = []
    for row in range(8):
        z = 8.0 * cosine[row]
        t = np.arccos(cosine[row, label[row]])
        z[label[row]] = 8.0 * (np.cos(t + 0.3) if kind == "arcface" else np.cos(t) - 0.3)
        log = z - np.log(np.sum(np.exp(z)))
        losses.append(-0.9 * log[label[row]] - 0.1 * np.mean(log))
    found = san.terms(batch, san(batch["image"]))["id_loss"].value
    assert float(found) == pytest.approx(np.mean(losses), rel=1e-4)
    encoder.save_weights(tmp_path / "x.weights.h5")
    again = baseline_of(**settings)
    again.load_weights(tmp_path / "x.weights.h5")
    np.testing.assert_array_equal(again(batch["image"])["logits"], encoder(batch["image"])["logits"])
    encoder.save(tmp_path / "x.keras")
    loaded = keras.models.load_model(tmp_path / "x.keras")
    assert loaded.get_layer("classifier").get_config()["kind"] == kind
    np.testing.assert_allclose(loaded(batch["image"])["logits"], encoder(batch["image"])["logits"], atol=1e-5)
    with pytest.raises(UserError, match="classifier='linear'"):
        baseline_of().load_weights(tmp_path / "x.weights.h5")
    # To go on with other people any classifier may follow.
    load_body(baseline_of(classes=7), tmp_path / "x.weights.h5")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"classifier": "softmax"}, "Unknown classifier 'softmax'"),
        ({"classifier_scale": 0.0}, "classifier_scale must be positive"),
        ({"classifier_margin": float("nan")}, "classifier_margin from 0 to 1"),
    ],
)
def test_impossible_classifiers_are_refused(arguments, said):
    with pytest.raises(UserError, match=said):
        baseline_of(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [{"circle_margin": 1.0}, {"circle_scale": 0.0}, {"centre_weight": -1.0}, {"centre_rate": float("nan")}],
)
def test_impossible_circles_and_centres_are_refused(arguments):
    with pytest.raises(UserError, match=next(iter(arguments))):
        SAN(tiny_encoder(), **arguments)


def test_the_circle_loss_takes_the_place_of_the_triplets():
    san, batch = tiny_san(decoder=False, triplet="circle", circle_margin=0.3, circle_scale=16.0), tiny_batch()
    outputs = san(batch["image"], training=True)
    found = san.terms(batch, outputs)["triplet_loss"].value
    assert float(found) == pytest.approx(float(circle_loss(batch["label"], outputs["embedding"], 0.3, 16.0)))
    history = san.fit(repeated(batch), steps_per_epoch=5, epochs=3, verbose=0).history["triplet_loss"]
    assert history[-1] < history[0]
    assert type(san).from_config(san.get_config()).circle_scale == 16.0
