"""From decoded sound and pictures to frames of features."""
