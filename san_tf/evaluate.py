"""`python -m san_tf.evaluate`, the same as `san-tf evaluate`; see `san_tf.evaluation.evaluate_command`."""

from san_tf.evaluation.evaluate_command import main

if __name__ == "__main__":
    main()
