"""What one does with a bundle: verify, export, import."""
