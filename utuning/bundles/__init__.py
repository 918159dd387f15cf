"""What deploys: bundles, written, read and checked, and their forms for other libraries."""
