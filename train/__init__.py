"""Training: folders of images in, checkpoints out."""
