"""Words and numbers, as they are read from people and said to them."""
