"""What can be said of a graph without running it: its normal form, its shapes, what its tensors hold."""
