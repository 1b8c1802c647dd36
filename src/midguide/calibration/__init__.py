"""Calibration: whether draws are those of the posterior, by ranks and coverage of truths from the prior."""

from midguide.catalogue.namespace import namespace

__getattr__, __dir__ = namespace(__name__, also=("midguide.metrics.ranks", "midguide.metrics.scores"))
