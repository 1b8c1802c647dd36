"""Measurement operators: what an instrument does to a signal."""

from midguide.operators.base import LinearOperator, Operator, PseudoInvertibleOperator, SVDOperator
from midguide.operators.bicubic import bicubic_downsampling
from midguide.operators.blur import CircularBlur, ReflectBlur, gaussian_kernel
from midguide.operators.colorization import Colorization
from midguide.operators.compose import Compose, LinearCompose, compose
from midguide.operators.compressed_sensing import CompressedSensing, SubsampledTransform
from midguide.operators.decomposed import Decomposed
from midguide.operators.deepinv import from_deepinv
from midguide.operators.high_dynamic_range import HighDynamicRange
from midguide.operators.jpeg import JPEG
from midguide.operators.mask import Mask, box_mask, half_mask, mask_from_file, random_mask
from midguide.operators.matrix import Identity, Matrix
from midguide.operators.motion_kernel import motion_kernel
from midguide.operators.nonlinear_blur import NonlinearBlur
from midguide.operators.phase_retrieval import PhaseRetrieval
from midguide.operators.registry import OPERATORS, PRESETS, OperatorEntry, OperatorPreset, make_operator
from midguide.operators.rescaled import Rescaled, rescaled
from midguide.operators.separable import Separable
from midguide.operators.separable_blur import SeparableBlur
from midguide.operators.super_resolution import BlockMean

__all__ = [
    "JPEG",
    "OPERATORS",
    "PRESETS",
    "BlockMean",
    "CircularBlur",
    "Colorization",
    "Compose",
    "CompressedSensing",
    "Decomposed",
    "HighDynamicRange",
    "Identity",
    "LinearCompose",
    "LinearOperator",
    "Mask",
    "Matrix",
    "NonlinearBlur",
    "Operator",
    "OperatorEntry",
    "OperatorPreset",
    "PhaseRetrieval",
    "PseudoInvertibleOperator",
    "ReflectBlur",
    "Rescaled",
    "SVDOperator",
    "Separable",
    "SeparableBlur",
    "SubsampledTransform",
    "bicubic_downsampling",
    "box_mask",
    "compose",
    "from_deepinv",
    "gaussian_kernel",
    "half_mask",
    "make_operator",
    "mask_from_file",
    "motion_kernel",
    "random_mask",
    "rescaled",
]
