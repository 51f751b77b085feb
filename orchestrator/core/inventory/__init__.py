"""Hosts files: how they are read, what they may say, and how one value of theirs is changed."""
