"""How long models take, beside each other in the same rounds."""
