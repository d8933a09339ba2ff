"""What a step and a prediction cost, in seconds and memory: forms of the method beside each other, and peers."""
