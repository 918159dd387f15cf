"""Readers of the fine-grained data sets, one a file, as their owners publish them. The table is in `table`."""
