"""Running models: engines, tiles, images and video."""
