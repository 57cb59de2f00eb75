"""From a picture to a larger one: options, tiles, memory, the chain, and what is handed back."""
