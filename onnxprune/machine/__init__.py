"""What this machine offers, and what was measured on it."""
