"""Image data sets: reading, preparing, Parquet shards, transforms and the sharded loader.

Import from the modules themselves; nothing is imported here, so that listing or preparing
a data set never pays for torch.
"""
