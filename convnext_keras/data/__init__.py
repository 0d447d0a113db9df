"""Images and class names: reading, transforms, augmentation, batches."""
