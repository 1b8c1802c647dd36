"""Posterior sampling with diffusion priors. Names load on first use: `import midguide` does not import torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from midguide.denoisers.gaussian import Gaussian
    from midguide.denoisers.gmm import GaussianMixture
    from midguide.denoisers.latent import LatentPrior, NetworkAutoencoder
    from midguide.denoisers.loading import load_prior
    from midguide.denoisers.network import NetworkDenoiser
    from midguide.errors import (
        CheckpointError,
        ConfigError,
        DataError,
        MidguideError,
        NumericalError,
        ShapeError,
        UnsupportedProblem,
    )
    from midguide.likelihoods import GaussianLikelihood, PoissonLikelihood, observe
    from midguide.operators.blur import CircularBlur, ReflectBlur
    from midguide.operators.compose import compose
    from midguide.operators.deepinv import from_deepinv
    from midguide.operators.mask import Mask
    from midguide.operators.matrix import Identity, Matrix
    from midguide.operators.nonlinear_blur import NonlinearBlur
    from midguide.operators.phase_retrieval import PhaseRetrieval
    from midguide.operators.registry import make_operator
    from midguide.operators.separable_blur import SeparableBlur
    from midguide.operators.super_resolution import BlockMean
    from midguide.optim import Adam
    from midguide.problem import Problem
    from midguide.rules import StepRule
    from midguide.samplers.ddnm import DDNM, DDNMPlus
    from midguide.samplers.ddrm import DDRM
    from midguide.samplers.diffpir import DiffPIR
    from midguide.samplers.dps import DPS
    from midguide.samplers.mgps import MGPS
    from midguide.samplers.pgdm import PGDM
    from midguide.samplers.psld import PSLD
    from midguide.samplers.red_diff import REDDiff
    from midguide.samplers.resample import ReSample
    from midguide.samplers.unconditional import Unconditional
    from midguide.samples import Samples
    from midguide.sampling import sample
    from midguide.schedules import EDM, DiscreteVP, RectifiedFlow

__version__ = "0.1.0"

__all__ = [
    "Adam",
    "BlockMean",
    "CheckpointError",
    "CircularBlur",
    "ConfigError",
    "DDNM",
    "DDNMPlus",
    "DDRM",
    "DPS",
    "DataError",
    "DiffPIR",
    "DiscreteVP",
    "EDM",
    "Gaussian",
    "GaussianLikelihood",
    "GaussianMixture",
    "Identity",
    "LatentPrior",
    "MGPS",
    "Mask",
    "Matrix",
    "MidguideError",
    "NetworkAutoencoder",
    "NetworkDenoiser",
    "NonlinearBlur",
    "NumericalError",
    "PGDM",
    "PSLD",
    "PhaseRetrieval",
    "PoissonLikelihood",
    "Problem",
    "REDDiff",
    "ReSample",
    "RectifiedFlow",
    "ReflectBlur",
    "Samples",
    "SeparableBlur",
    "ShapeError",
    "StepRule",
    "Unconditional",
    "UnsupportedProblem",
    "__version__",
    "compose",
    "from_deepinv",
    "load_prior",
    "make_operator",
    "observe",
    "sample",
]

_HOME = {
    "Adam": "midguide.optim",
    "BlockMean": "midguide.operators.super_resolution",
    "CheckpointError": "midguide.errors",
    "CircularBlur": "midguide.operators.blur",
    "ConfigError": "midguide.errors",
    "DDNM": "midguide.samplers.ddnm",
    "DDNMPlus": "midguide.samplers.ddnm",
    "DDRM": "midguide.samplers.ddrm",
    "DPS": "midguide.samplers.dps",
    "DataError": "midguide.errors",
    "DiffPIR": "midguide.samplers.diffpir",
    "DiscreteVP": "midguide.schedules",
    "EDM": "midguide.schedules",
    "Gaussian": "midguide.denoisers.gaussian",
    "GaussianLikelihood": "midguide.likelihoods",
    "GaussianMixture": "midguide.denoisers.gmm",
    "Identity": "midguide.operators.matrix",
    "LatentPrior": "midguide.denoisers.latent",
    "MGPS": "midguide.samplers.mgps",
    "Mask": "midguide.operators.mask",
    "Matrix": "midguide.operators.matrix",
    "MidguideError": "midguide.errors",
    "NetworkAutoencoder": "midguide.denoisers.latent",
    "NetworkDenoiser": "midguide.denoisers.network",
    "NonlinearBlur": "midguide.operators.nonlinear_blur",
    "NumericalError": "midguide.errors",
    "PGDM": "midguide.samplers.pgdm",
    "PSLD": "midguide.samplers.psld",
    "PhaseRetrieval": "midguide.operators.phase_retrieval",
    "PoissonLikelihood": "midguide.likelihoods",
    "Problem": "midguide.problem",
    "REDDiff": "midguide.samplers.red_diff",
    "ReSample": "midguide.samplers.resample",
    "RectifiedFlow": "midguide.schedules",
    "ReflectBlur": "midguide.operators.blur",
    "Samples": "midguide.samples",
    "SeparableBlur": "midguide.operators.separable_blur",
    "ShapeError": "midguide.errors",
    "StepRule": "midguide.rules",
    "Unconditional": "midguide.samplers.unconditional",
    "UnsupportedProblem": "midguide.errors",
    "compose": "midguide.operators.compose",
    "load_prior": "midguide.denoisers.loading",
    "from_deepinv": "midguide.operators.deepinv",
    "make_operator": "midguide.operators.registry",
    "observe": "midguide.likelihoods",
    "sample": "midguide.sampling",
}

if not TYPE_CHECKING:  # a checker that saw this would let every misspelt name pass

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
