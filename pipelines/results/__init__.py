"""Runs made comparable: leaderboards, published numbers, paired comparisons."""
