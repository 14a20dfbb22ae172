"""How the bundled models are made: closed-form latents, a hand-set VAE, a tiny text encoder, and the training loop."""
