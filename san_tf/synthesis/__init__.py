"""The generator of paired images and textures: people, their clothes, cameras and scenes.

`body` (shape), `skeleton` and `pose` (motion), `rasterizer` (pixels); nothing here imports TensorFlow.
"""
