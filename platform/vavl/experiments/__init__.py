"""Many trainings: comparisons over a grid, sweeps by search."""
