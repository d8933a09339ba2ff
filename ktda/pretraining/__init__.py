"""Where a teacher's knowledge comes from: pretraining on pairs of pictures of the same ground, without a label."""
