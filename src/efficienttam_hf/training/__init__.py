"""Training and fine-tuning: the simulated user, the losses, and the loop on Accelerate."""
