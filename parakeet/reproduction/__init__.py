"""`parakeet reproduce`: what a training run was made with, what is different now, and the same training again."""
