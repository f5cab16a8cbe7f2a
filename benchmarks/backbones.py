"""Training speed of light backbones on a CPU, in images/s.

    python benchmarks/backbones.py --batch 64 --height 128 --width 64 --rounds 5

Each candidate is a fully convolutional encoder with four stages, whose last map is 1/16 of the image (last
stride 1), with global average pooling and a classifier of 100 identities. A step is forward, cross entropy,
backward and Adam in one `tf.function`. Candidates take turns in each round, so that other programs on the
machine slow all of them alike: compare the ratios, not the absolute numbers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from contestants import new_parser

L = keras.layers
IDENTITIES = 100


def conv_bn(x, filters, size=3, stride=1, relu=True):
    x = L.Conv2D(filters, size, strides=stride, padding="same", use_bias=False)(x)
    x = L.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
    return L.ReLU()(x) if relu else x


def depthwise_bn(x, stride=1, relu=True):
    x = L.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False)(x)
    x = L.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
    return L.ReLU()(x) if relu else x


def basic(x, filters, stride):
    y = conv_bn(conv_bn(x, filters, 3, stride), filters, 3, relu=False)
    if stride != 1 or x.shape[-1] != filters:
        x = conv_bn(x, filters, 1, stride, relu=False)
    return L.ReLU()(L.Add()([x, y]))


def bottleneck(x, filters, stride):
    y = conv_bn(conv_bn(conv_bn(x, filters // 4, 1), filters // 4, 3, stride), filters, 1, relu=False)
    if stride != 1 or x.shape[-1] != filters:
        x = conv_bn(x, filters, 1, stride, relu=False)
    return L.ReLU()(L.Add()([x, y]))


def inverted_residual(x, filters, stride, expansion=6):
    y = depthwise_bn(conv_bn(x, x.shape[-1] * expansion, 1), stride)
    y = conv_bn(y, filters, 1, relu=False)
    return L.Add()([x, y]) if stride == 1 and x.shape[-1] == filters else y


def light_conv(x, filters):
    """OSNet's Lite 3x3: 1x1 linear, then depthwise 3x3, BN, ReLU."""
    return depthwise_bn(L.Conv2D(filters, 1, use_bias=False)(x))


def omni_scale(x, filters, stride):
    """OSNet block: four streams of 1-4 light convolutions, one gate shared by all."""
    if stride != 1:  # the transition between OSNet stages
        x = L.AveragePooling2D(2)(conv_bn(x, x.shape[-1], 1))
    middle = filters // 4
    y = conv_bn(x, middle, 1)
    squeeze = L.Dense(max(middle // 16, 1), activation="relu")
    excite = L.Dense(middle, activation="sigmoid")
    streams = []
    for depth in range(1, 5):
        stream = y
        for _ in range(depth):
            stream = light_conv(stream, middle)
        gate = excite(squeeze(L.GlobalAveragePooling2D(keepdims=True)(stream)))
        streams.append(L.Multiply()([stream, gate]))
    y = conv_bn(L.Add()(streams), filters, 1, relu=False)
    if x.shape[-1] != filters:
        x = conv_bn(x, filters, 1, relu=False)
    return L.ReLU()(L.Add()([x, y]))


def encoder(shape, block, widths, depths, stem=None, pool=True, head=None) -> keras.Model:
    image = keras.Input(shape)
    x = conv_bn(image, stem or widths[0], 3, 2)
    x = L.MaxPooling2D(3, 2, padding="same")(x) if pool else x
    strides = (1, 2, 2, 1) if pool else (2, 2, 2, 1)
    for width, depth, stride in zip(widths, depths, strides, strict=True):
        for index in range(depth):
            x = block(x, width, stride if index == 0 else 1)
    if head:
        x = conv_bn(x, head, 1)
    embedding = L.GlobalAveragePooling2D()(x)
    return keras.Model(image, [embedding, L.Dense(IDENTITIES)(embedding)])


CANDIDATES: dict[str, Callable] = {
    "basic 16-32-64-128 x2222": lambda s: encoder(s, basic, (16, 32, 64, 128), (2, 2, 2, 2)),
    "basic 24-48-96-160 x1111": lambda s: encoder(s, basic, (24, 48, 96, 160), (1, 1, 1, 1)),
    "basic 32-64-128-192 x1111": lambda s: encoder(s, basic, (32, 64, 128, 192), (1, 1, 1, 1)),
    "basic 32-64-96-128 x2222": lambda s: encoder(s, basic, (32, 64, 96, 128), (2, 2, 2, 2)),
    "bottleneck 64-128-256-512 x2222": lambda s: encoder(
        s, bottleneck, (64, 128, 256, 512), (2, 2, 2, 2), 16
    ),
    "bottleneck 96-192-384-512 x1222": lambda s: encoder(
        s, bottleneck, (96, 192, 384, 512), (1, 2, 2, 2), 24
    ),
    "bottleneck 128-256-384-512 x1111": lambda s: encoder(
        s, bottleneck, (128, 256, 384, 512), (1, 1, 1, 1), 32
    ),
    "MobileNet-like 16-24-48-96 x1232": lambda s: encoder(
        s, inverted_residual, (16, 24, 48, 96), (1, 2, 3, 2), 16, pool=False, head=384
    ),
    "OSNet x0.25": lambda s: encoder(s, omni_scale, (16, 64, 96, 128), (0, 2, 2, 2), 16, head=512),
}


def training_step(model: keras.Model) -> Callable:
    optimizer = keras.optimizers.Adam(1e-3, amsgrad=True)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(image, label):
        with tf.GradientTape() as tape:
            _, logits = model(image, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    return step


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--width", type=int, default=64)
    arguments = parser.parse_args()
    shape = (arguments.height, arguments.width, 3)
    rng = np.random.default_rng(0)
    image = tf.constant(rng.standard_normal((arguments.batch, *shape)), tf.float32)
    label = tf.constant(rng.integers(0, IDENTITIES, arguments.batch), tf.int32)
    models = {name: build(shape) for name, build in CANDIDATES.items()}
    steps = {name: training_step(model) for name, model in models.items()}
    for step in steps.values():  # traces
        step(image, label), step(image, label)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(arguments.rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step(image, label).numpy()
            seconds[name].append(time.perf_counter() - start)
    print(f"| backbone | embedding | MB float32, no classifier | images/s at batch {arguments.batch} |")
    print("|---|---|---|---|")
    for name, model in models.items():
        size = (model.count_params() - (model.output[0].shape[-1] + 1) * IDENTITIES) * 4 / 1e6
        speed = arguments.batch / statistics.median(seconds[name])
        print(f"| {name} | {model.output[0].shape[-1]} | {size:.2f} | {speed:.0f} |")


if __name__ == "__main__":
    main()
