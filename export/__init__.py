"""Export: checkpoints in, verified graphs out."""
