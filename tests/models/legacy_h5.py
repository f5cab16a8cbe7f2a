"""Writes the files that keras.applications downloads; Keras 2 and 3 keep the function in different places."""

from san_tf.keras_compat import KERAS_3

if KERAS_3:
    from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group
else:
    from keras.src.saving.legacy.hdf5_format import save_weights_to_hdf5_group

__all__ = ["save_weights_to_hdf5_group"]
