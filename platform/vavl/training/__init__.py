"""The loop, the engines, checkpoints, and the launch on Ray Train."""
