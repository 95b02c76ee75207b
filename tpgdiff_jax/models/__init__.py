"""The denoising network and the system that joins it with the priors."""
