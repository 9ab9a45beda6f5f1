"""Whether the images that arrive are like those the model knows, and whether it is right about them."""
