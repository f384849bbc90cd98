"""Floor 2: text encoders, diffusion, the losses, motion priors, their training and sampling."""
