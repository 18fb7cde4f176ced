"""Plots and HTML pages for people."""
