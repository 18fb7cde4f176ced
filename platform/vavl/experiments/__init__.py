"""Many training runs: comparisons over a grid, sweeps by search."""
