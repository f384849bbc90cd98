"""Text encoders, losses, diffusion and the families of motion models."""
