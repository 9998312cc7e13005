"""Reports on money and work: pure cores that take entries or rows one by one, and thin edges that feed them."""
