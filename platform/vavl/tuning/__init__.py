"""Sweeps: searched settings, the Optuna study, and Ray Tune as the runner of the trials."""
