"""How a training example, or one of its pixels, moves the validation loss."""
