"""The journal, its replay into MLflow, and the model registry."""
