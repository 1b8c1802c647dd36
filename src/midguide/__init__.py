"""Posterior sampling with diffusion priors.

About ten names are at the top; the rest is in namespaces: `midguide.samplers`, `.operators`, `.priors`,
`.likelihoods`, `.schedules`, `.metrics`, `.testing`. Names load on first use: `import midguide` does not import torch.
`__init__.pyi` is their one list.
"""

import lazy_loader

from midguide._version import __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
