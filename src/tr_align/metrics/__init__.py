"""Measures on generated replies: KL to the SFT model, win rates."""
