"""A grid of runs, in local processes or on a cluster."""
