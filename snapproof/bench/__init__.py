"""What saving a guest costs: plans, samples, comparisons and their statistics."""
