"""The same model written otherwise: BatchNormalization put in or merged, other number formats."""
