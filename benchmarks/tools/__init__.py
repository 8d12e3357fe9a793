"""What only maintainers run: goes on with the bundled models and releases them."""
