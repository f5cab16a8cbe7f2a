"""From files to training batches: records, identity sampling, augmentation, tf.data pipelines."""
