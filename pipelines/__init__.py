"""The flow: search, trial, tracking, leaderboard, pull and the command line."""
