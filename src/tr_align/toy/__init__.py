"""A world small enough that everything is computed and nothing sampled: what alignment does to probability."""
