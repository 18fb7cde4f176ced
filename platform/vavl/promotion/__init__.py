"""Challenger against champion: rule, contest, decision."""
