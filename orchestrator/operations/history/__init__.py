"""Recorded runs: found by a word, compared, repeated."""
