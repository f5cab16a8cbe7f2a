import logging

import keras
import pytest
import tensorflow as tf

from san_tf.errors import UserError
from san_tf.training import precision as module
from san_tf.training.precision import (
    PRECISIONS,
    get_precision,
    precision_scope,
    sensible_precision,
    set_precision,
)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_layers_built_inside_compute_in_the_precision_and_keep_float32_weights(precision):
    former = get_precision()
    with precision_scope(precision):
        assert get_precision() == precision
        layer = keras.layers.Dense(2)
        layer.build((1, 3))
    assert get_precision() == former
    assert layer.compute_dtype == precision.removeprefix("mixed_")
    assert layer.kernel.dtype == "float32"


def test_the_former_precision_returns_after_an_error():
    with pytest.raises(RuntimeError), precision_scope("mixed_bfloat16"):
        raise RuntimeError
    assert get_precision() == "float32"


def test_unknown_precision_is_named():
    with pytest.raises(UserError, match="float8"):
        set_precision("float8")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ([], "float32"),
        ([(6, 1)], "float32"),
        ([(7, 5)], "mixed_float16"),
        ([(8, 0)], "mixed_bfloat16"),
        ([(9, 0), (7, 0)], "mixed_float16"),
        ([None], "float32"),
    ],
)
def test_auto_goes_by_the_weakest_gpu(monkeypatch, capabilities, expected):
    details = [{} if found is None else {"compute_capability": found} for found in capabilities]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: range(len(details)))
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: details[device])
    assert sensible_precision() == expected
    with precision_scope("auto"):
        assert get_precision() == expected


@pytest.mark.parametrize(
    ("precision", "flags", "warned"),
    [
        ("mixed_bfloat16", "avx2", True),
        ("mixed_bfloat16", "avx2 avx512_bf16", False),
        ("mixed_float16", "avx2 avx512_bf16", True),
        ("mixed_float16", "avx512_fp16", False),
        ("float32", "avx2", False),
        ("auto", "avx2 avx512_bf16 avx512_fp16", False),
    ],
)
def test_16_bits_on_a_cpu_without_them_are_warned_of(monkeypatch, tmp_path, caplog, precision, flags, warned):
    (tmp_path / "cpuinfo").write_text(f"model name : any\nflags : fpu {flags}\n")
    monkeypatch.setattr(module, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [])
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    with caplog.at_level(logging.WARNING), precision_scope(precision):
        # Whatever the processor can do, nobody gets 16 bits on it unasked.
        assert get_precision() == ("float32" if precision == "auto" else precision)
    assert ("slower than in float32" in caplog.text) == warned
