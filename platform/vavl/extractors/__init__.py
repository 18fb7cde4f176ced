"""From decoded audio and video to frames of features."""
