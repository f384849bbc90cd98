"""Floor 1: the 22-joint skeleton, the 263-d representation and the text-motion corpus."""
