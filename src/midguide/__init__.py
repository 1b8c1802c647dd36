"""Posterior sampling with diffusion priors. Names load on first use: `import midguide` does not import torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from midguide.diffusion.rules import StepRule
    from midguide.diffusion.schedules import EDM, DiscreteVP, RectifiedFlow
    from midguide.errors import (
        CheckpointError,
        ConfigError,
        DataError,
        MidguideError,
        NumericalError,
        ShapeError,
        UnsupportedProblem,
    )
    from midguide.inference.loop import sample
    from midguide.inference.samples import Samples
    from midguide.likelihoods import GaussianLikelihood, PoissonLikelihood, observe
    from midguide.maths.optim import Adam
    from midguide.operators.blur import CircularBlur, ReflectBlur
    from midguide.operators.compose import compose
    from midguide.operators.deepinv import from_deepinv
    from midguide.operators.factory import make_operator
    from midguide.operators.mask import Mask
    from midguide.operators.matrix import Identity, Matrix
    from midguide.operators.nonlinear_blur import NonlinearBlur
    from midguide.operators.phase_retrieval import PhaseRetrieval
    from midguide.operators.separable_blur import SeparableBlur
    from midguide.operators.super_resolution import BlockMean
    from midguide.priors.gaussian import Gaussian
    from midguide.priors.latent import LatentPrior, NetworkAutoencoder
    from midguide.priors.loading import load_prior
    from midguide.priors.mixture import GaussianMixture
    from midguide.priors.network import NetworkDenoiser
    from midguide.problem import Problem
    from midguide.samplers.ddnm import DDNM, DDNMPlus
    from midguide.samplers.ddrm import DDRM
    from midguide.samplers.diffpir import DiffPIR
    from midguide.samplers.dps import DPS
    from midguide.samplers.mgps import MGPS
    from midguide.samplers.pgdm import PGDM
    from midguide.samplers.psld import PSLD
    from midguide.samplers.red_diff import RedDiff
    from midguide.samplers.resample import ReSample
    from midguide.samplers.unconditional import Unconditional

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
    "RedDiff",
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
    "Adam": "midguide.maths.optim",
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
    "DiscreteVP": "midguide.diffusion.schedules",
    "EDM": "midguide.diffusion.schedules",
    "Gaussian": "midguide.priors.gaussian",
    "GaussianLikelihood": "midguide.likelihoods",
    "GaussianMixture": "midguide.priors.mixture",
    "Identity": "midguide.operators.matrix",
    "LatentPrior": "midguide.priors.latent",
    "MGPS": "midguide.samplers.mgps",
    "Mask": "midguide.operators.mask",
    "Matrix": "midguide.operators.matrix",
    "MidguideError": "midguide.errors",
    "NetworkAutoencoder": "midguide.priors.latent",
    "NetworkDenoiser": "midguide.priors.network",
    "NonlinearBlur": "midguide.operators.nonlinear_blur",
    "NumericalError": "midguide.errors",
    "PGDM": "midguide.samplers.pgdm",
    "PSLD": "midguide.samplers.psld",
    "PhaseRetrieval": "midguide.operators.phase_retrieval",
    "PoissonLikelihood": "midguide.likelihoods",
    "Problem": "midguide.problem",
    "RedDiff": "midguide.samplers.red_diff",
    "ReSample": "midguide.samplers.resample",
    "RectifiedFlow": "midguide.diffusion.schedules",
    "ReflectBlur": "midguide.operators.blur",
    "Samples": "midguide.inference.samples",
    "SeparableBlur": "midguide.operators.separable_blur",
    "ShapeError": "midguide.errors",
    "StepRule": "midguide.diffusion.rules",
    "Unconditional": "midguide.samplers.unconditional",
    "UnsupportedProblem": "midguide.errors",
    "compose": "midguide.operators.compose",
    "load_prior": "midguide.priors.loading",
    "from_deepinv": "midguide.operators.deepinv",
    "make_operator": "midguide.operators.factory",
    "observe": "midguide.likelihoods",
    "sample": "midguide.inference.loop",
}

if not TYPE_CHECKING:  # a checker that saw this would let every misspelled name pass

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
