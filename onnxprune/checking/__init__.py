"""Whether a pruned model computes what the masked original does."""
