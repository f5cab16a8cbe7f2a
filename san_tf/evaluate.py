"""`python -m san_tf.evaluate`, the same as `san-tf evaluate`; see `san_tf.evaluation.command`."""

from san_tf.evaluation.command import main

if __name__ == "__main__":
    main()
