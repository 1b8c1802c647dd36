"""Tests of two sets of draws for one law, by their means and covariances."""

import numpy as np
from scipy import stats


def features(x):
    """x and the products x_i x_j: everything that means and covariances are made of."""
    upper = np.triu_indices(x.shape[1])
    return np.concatenate([x, (x[:, :, None] * x[:, None, :])[:, upper[0], upper[1]]], axis=1)


def p_value_same_moments(a, b):
    """Of T = d^T S^{-1} d, with d the difference of the mean features; chi-square if the laws are one."""
    a, b = features(np.asarray(a)), features(np.asarray(b))
    gap = a.mean(0) - b.mean(0)
    spread = np.cov(a.T) / len(a) + np.cov(b.T) / len(b)
    return stats.chi2.sf(gap @ np.linalg.solve(spread, gap), len(gap))
