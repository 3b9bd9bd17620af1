"""Models on disk and in memory: read lazily, written whole or not at all."""
