"""Many tuners on one frozen backbone, served over HTTP."""
