"""Making up for what was cut: who reads it, and what those layers should compute instead."""
