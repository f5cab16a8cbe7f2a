"""What people who know Keras do with a model: it works, or one sentence says what to do instead."""

import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_san import repeated, tiny_batch, tiny_encoder, tiny_san

from san_tf.errors import UserError
from san_tf.models import SAN, SANPG, LossWeights, build_decoder, build_encoder
from san_tf.models.san import Term


def one_step(model, batch=None):
    """The logs of one step of `fit`, by name."""
    history = model.fit(repeated(batch or tiny_batch()), steps_per_epoch=1, verbose=0).history
    return {name: values[0] for name, values in history.items()}


def weighted(logs):
    return sum(
        weight * logs[name] for weight, name in zip((0.5, 1.5), ("id_loss", "triplet_loss"), strict=True)
    )


def encoder_with(**convolution):
    """Four convolutions with arguments of one's own, as a functional model."""
    x = image = keras.Input((32, 16, 3))
    stages = []
    for stride in (4, 2, 2, 1):
        x = keras.layers.Conv2D(4, 3, stride, padding="same", **convolution)(x)
        stages.append(x)
    embedding = keras.layers.GlobalAveragePooling2D()(x)
    logits = keras.layers.Dense(4)(embedding)
    return keras.Model(image, {"embedding": embedding, "logits": logits, "stages": stages})


def test_regularisers_of_ones_own_layers_count():
    encoder = encoder_with(kernel_regularizer=keras.regularizers.L2(10.0))
    penalty = 10.0 * sum(float(np.sum(np.square(w))) for w in encoder.get_weights()[:-2] if w.ndim == 4)
    san = SAN(encoder)
    san.compile(optimizer="sgd")
    logs = one_step(san)
    assert penalty > 10
    assert logs["loss"] == pytest.approx(weighted(logs) + penalty, rel=1e-4)


def test_add_loss_of_a_layer_counts():
    class Costly(keras.layers.Layer):
        def call(self, x):
            self.add_loss(tf.constant(100.0))
            return x

    encoder = encoder_with()
    outputs = dict(encoder.output)
    outputs["embedding"] = Costly()(outputs["embedding"])
    san = SAN(keras.Model(encoder.input, outputs))
    san.compile(optimizer="sgd")
    logs = one_step(san)
    assert logs["loss"] == pytest.approx(weighted(logs) + 100.0, rel=1e-5)


def test_an_overridden_compute_loss_is_what_is_descended():
    class Shrinking(SAN):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return tf.reduce_mean(tf.square(y_pred["embedding"]))

    model = Shrinking(tiny_encoder())
    model.compile(optimizer=keras.optimizers.Adam(1e-2))
    logs = one_step(model)
    expected = float(
        tf.reduce_mean(
            tf.square(Shrinking(tiny_encoder())(tiny_batch()["image"], training=True)["embedding"])
        )
    )
    assert logs["loss"] == pytest.approx(expected, rel=1e-4)
    assert "id_loss" not in logs  # it was not computed, and 0 would be untrue


def test_a_loss_of_ones_own_is_one_more_term():
    class Centred(SAN):
        metric_names = (*SAN.metric_names, "centre_loss")

        def terms(self, batch, outputs):
            centre = tf.reduce_mean(tf.square(outputs["embedding"]))
            return super().terms(batch, outputs) | {"centre_loss": Term(centre, 3.0, tf.constant(8.0))}

    model = Centred(tiny_encoder())
    model.compile(optimizer="sgd")
    logs = one_step(model)
    assert logs["centre_loss"] > 0
    assert logs["loss"] == pytest.approx(weighted(logs) + 3.0 * logs["centre_loss"], rel=1e-5)


def test_a_term_without_a_metric_is_told():
    class Forgetful(SAN):
        def terms(self, batch, outputs):
            return super().terms(batch, outputs) | {"mine": Term(tf.constant(1.0), 1.0, tf.constant(1.0))}

    model = Forgetful(tiny_encoder())
    model.compile(optimizer="sgd")
    with pytest.raises(UserError, match="mine, which metric_names lacks"):
        model.train_step(tiny_batch())


@pytest.mark.parametrize("name", ["loss", "loss_weights", "metrics", "weighted_metrics"])
def test_compile_refuses_what_it_would_ignore(name):
    with pytest.raises(UserError, match=f"takes no {name}: SAN brings its losses"):
        tiny_san().compile(optimizer="sgd", **{name: ["mse"]})


def test_nothing_to_train_is_told():
    san = tiny_san()
    san.encoder.trainable = san.decoder.trainable = False
    san.compile(optimizer="sgd")
    with pytest.raises(UserError, match="all its layers are frozen"):
        san.train_step(tiny_batch())


def test_a_frozen_encoder_stays_and_the_decoder_learns():
    san = tiny_san()
    san.encoder.trainable = False
    san.compile(optimizer=keras.optimizers.Adam(1e-2))
    before = [w.copy() for w in san.encoder.get_weights()], [w.copy() for w in san.decoder.get_weights()]
    one_step(san)
    assert all(np.array_equal(a, b) for a, b in zip(before[0], san.encoder.get_weights(), strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(before[1], san.decoder.get_weights(), strict=True))


def test_predict_takes_the_data_of_fit_and_gives_no_feature_maps():
    san, batch = tiny_san(), tiny_batch()
    expected = san(batch["image"])
    from_dicts = san.predict(repeated(batch).take(2), verbose=0)
    from_images = san.predict(batch["image"], verbose=0)
    assert set(from_dicts) == set(from_images) == {"embedding", "logits"}
    np.testing.assert_allclose(from_images["embedding"], expected["embedding"], rtol=1e-5)
    np.testing.assert_allclose(from_dicts["embedding"], np.tile(expected["embedding"], (2, 1)), rtol=1e-5)


def test_predict_of_a_generator_with_a_palette_paints():
    encoder = tiny_encoder()
    shapes = [stage.shape for stage in encoder.output["stages"]]
    decoder = build_decoder(shapes, (8, 8, 8, 4, 4), palette=4, seed=1)
    model = SANPG(encoder, decoder)
    painted = model.predict(repeated(tiny_batch()).take(1), verbose=0)
    assert set(painted) == {"texture"} and painted["texture"].shape == (12, 32, 32, 3)


def test_save_and_load_go_on_training(tmp_path):
    san, batch = tiny_san(), tiny_batch()
    one_step(san)
    san.save(tmp_path / "san.keras")
    again = keras.models.load_model(tmp_path / "san.keras")
    np.testing.assert_array_equal(again(batch["image"])["embedding"], san(batch["image"])["embedding"])
    assert one_step(again)["loss"] == pytest.approx(one_step(san)["loss"], rel=1e-4)


@pytest.mark.skipif(keras.__version__.startswith("2."), reason="Keras 2 clones functional models only")
def test_clone_model_gives_the_same_form():
    san = tiny_san(loss_weights=LossWeights(1.0, 2.0, 3.0, 4.0), margin=0.7)
    clone = keras.models.clone_model(san)
    assert clone.loss_weights == san.loss_weights and clone.margin == 0.7
    assert [w.shape for w in clone.get_weights()] == [w.shape for w in san.get_weights()]


def test_export_writes_a_saved_model_of_what_predict_gives(tmp_path):
    san, batch = tiny_san(), tiny_batch()
    san.export(str(tmp_path / "export"))
    served = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"]
    name = next(iter(served.structured_input_signature[1]))
    answer = served(**{name: batch["image"]})
    assert set(answer) == {"embedding", "logits"}
    np.testing.assert_allclose(answer["embedding"], san(batch["image"])["embedding"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("builder", [build_encoder, build_decoder])
def test_builders_are_pickled_by_name(builder):
    assert pickle.loads(pickle.dumps(builder)) is builder


def changed(**columns):
    batch = dict(tiny_batch())
    for name, value in columns.items():
        if value is None:
            del batch[name]
        else:
            batch[name] = value
    return batch


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        (changed(texture_weight=None), "lacks texture_weight"),
        (changed(label=None, texture=None), "lacks label and texture"),
        (
            changed(image=tf.zeros((12, 32, 16, 3), tf.uint8)),
            "image is uint8, but SAN takes float32; norm",
        ),
        (changed(image=tf.zeros((12, 16, 32, 3))), r"image has the shape \(12, 16, 32, 3\)"),
        (changed(label=tf.zeros(12)), "label is float32, but SAN takes int32"),
        (changed(label=tf.zeros((12, 4), tf.int32)), r"label has the shape \(12, 4\)"),
        (changed(texture=tf.zeros((12, 64, 64, 3))), r"texture has the shape \(12, 64, 64, 3\)"),
        ((tiny_batch()["image"], tiny_batch()["label"]), "received a tuple of 2"),
        (tiny_batch()["image"], "batches that are dicts of image"),
    ],
)
def test_a_batch_that_does_not_fit_is_told_in_one_sentence(batch, sentence):
    san = tiny_san()
    for step in (san.train_step, san.test_step):
        with pytest.raises(UserError, match=sentence) as caught:
            step(batch)
        assert "\n" not in str(caught.value)


def test_lambdas_have_a_name_of_their_own_and_older_configs_are_read():
    san = tiny_san(loss_weights=LossWeights(1.0, 2.0, 3.0, 4.0))
    config = san.get_config()
    assert config["loss_weights"] == [1.0, 2.0, 3.0, 4.0] and "weights" not in config
    config["weights"] = config.pop("loss_weights")
    assert SAN.from_config(config).loss_weights == (1.0, 2.0, 3.0, 4.0)
    for wrong in (LossWeights(), "imagenet"):
        with pytest.raises(UserError, match="loss_weights=LossWeights") as caught:
            tiny_san(weights=wrong)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "values", "sentence"),
    [
        ("image", lambda rng, shape: rng.uniform(0, 255, shape), "image has values up to 2.*normalize"),
        ("texture", lambda rng, shape: rng.uniform(0, 255, shape), r"texture has values up to 2.*\[-1, 1\]"),
        ("texture", lambda rng, shape: rng.uniform(-2, 2, shape), r"texture has values up to 1\.9"),
    ],
)
def test_images_and_textures_on_another_scale_are_told(name, values, sentence):
    batch = tiny_batch()
    pixels = values(np.random.default_rng(0), batch[name].shape)
    batch = batch | {name: tf.constant(pixels, tf.float32)}
    san = tiny_san()
    san.compile(optimizer="sgd", run_eagerly=True)
    before = san.get_weights()
    for call in (
        lambda: san.fit(repeated(batch), steps_per_epoch=1, verbose=0),
        lambda: san.evaluate(repeated(batch), steps=1, verbose=0),
    ):
        with pytest.raises(UserError, match=sentence) as caught:
            call()
        assert "\n" not in str(caught.value)
    for one, other in zip(before, san.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_xla_which_drops_assertions_lets_no_wrong_value_pass():
    batch = tiny_batch()
    pixels, label = batch["image"] * 100, batch["label"] * 0 + 99
    san = tiny_san()
    baseline = SAN(encoder=san.encoder)
    baseline.compile(optimizer="sgd", jit_compile=True)
    for wrong, sentence in (({"image": pixels}, "normalize"), ({"label": label}, "A label is 99")):
        with pytest.raises(UserError, match=sentence):
            baseline.evaluate(x=repeated(batch | wrong), steps=1, verbose=0)
    # What is not a dataset reaches the compiled step: the loss is then not a number.
    size = len(batch["label"])
    for wrong, fine in (({"image": pixels}, False), ({"label": label}, False), ({}, True)):
        loss = baseline.evaluate(batch | wrong, batch_size=size, verbose=0, return_dict=True)["loss"]
        assert np.isfinite(loss) == fine
    wrong = batch | {"texture": batch["texture"] * 100}
    generator = SANPG(san.encoder, san.decoder)
    for model, data in ((san, wrong), (generator, {key: wrong[key] for key in wrong if key != "label"})):
        model.compile(optimizer="sgd", jit_compile=True)
        with pytest.raises(tf.errors.InvalidArgumentError, match="texture out of scale"):
            next(iter(model._checked_before_xla(repeated(data))))


def test_a_label_out_of_range_is_told_when_run_eagerly_too():
    batch = tiny_batch()
    san = tiny_san()
    san.compile(optimizer="sgd", run_eagerly=True)
    with pytest.raises(UserError, match="A label is 99"):
        san.fit(repeated(batch | {"label": batch["label"] * 0 + 99}), steps_per_epoch=1, verbose=0)


def test_the_generators_batch_is_held_to_the_scale_as_well():
    batch = tiny_batch()
    generator = SANPG(tiny_san().encoder, tiny_san().decoder)
    generator.compile(optimizer="sgd")
    for name, sentence in (("image", "normalize"), ("texture", r"textures lie in \[-1, 1\]")):
        with pytest.raises(UserError, match=sentence):
            generator.fit(repeated(batch | {name: batch[name] * 100}), steps_per_epoch=1, verbose=0)
