from . import exact as exact
from . import likelihoods as likelihoods
from . import metrics as metrics
from . import operators as operators
from . import plots as plots
from . import priors as priors
from . import samplers as samplers
from . import signals as signals
from . import studies as studies
from . import testing as testing
from .diffusion import schedules as schedules
from .errors import MidguideError as MidguideError
from .inference.loop import sample as sample
from .inference.samples import Samples as Samples
from .likelihoods.gaussian import GaussianLikelihood as GaussianLikelihood
from .likelihoods.gaussian import observe as observe
from .likelihoods.poisson import PoissonLikelihood as PoissonLikelihood
from .operators.factory import make_operator as make_operator
from .priors.loading import load_prior as load_prior
from .problem import Problem as Problem
from .samplers.base import make_sampler as make_sampler

__version__: str
