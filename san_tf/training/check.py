"""`python -m san_tf.training.check`: old name of `python -m san_tf.check`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("san_tf.check", run_name="__main__")
