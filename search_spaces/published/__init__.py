"""Published numbers to beat, as data: one YAML a source, and the loader that checks them.

A number is worth as much as what stands beside it. Each row says its source and table, which checkpoint it starts from
and which protocol it follows; what a source does not state is `unknown`. Only rows of one checkpoint and one protocol,
both known, may be ranked together.
"""

from search_spaces.published.loader import DATASETS, FGVC, FGVC_SETS, UNKNOWN, Published, load_published

__all__ = ["DATASETS", "FGVC", "FGVC_SETS", "UNKNOWN", "Published", "load_published"]
