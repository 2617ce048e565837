"""From photographs to feature maps: the backbone, augmentation, and measures of attention maps. Notebook 01."""
