"""The mean-reverting diffusion: tables, losses and samplers as pure functions of arrays."""
