"""Decoding of audio and video, with what is told of a file."""
