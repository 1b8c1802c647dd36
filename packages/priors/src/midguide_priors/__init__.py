"""Weights of priors for `midguide`, which finds them by the entry point `midguide.shipped`: cards, weights, recipes."""
