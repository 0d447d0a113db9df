"""Image indexes: search by text, by image, or by vector."""
