"""What is measured: losses, motions, spectra, signals, recognition, and a grid of them."""
