"""Cohorts on Ray: the service, its worker groups, what trains in them, and what they keep."""
