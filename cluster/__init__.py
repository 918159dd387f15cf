"""Where it runs: cluster profiles and how a name or an address becomes one."""
